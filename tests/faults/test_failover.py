"""The primary of the database goes, its standby takes its place, and relays, workers and beat go on by themselves."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.chaos import Chaos
from tests.faults.site import Site

START_TIMEOUT_S = 60
BACK_TIMEOUT_S = 60
"""How long relays and workers may take to find the new primary, and to do as much work as is waited for.

The work alone took 15 s on a machine whose two cores had sixteen processes to run."""


@pytest.fixture
def chaos(folder: Path, database: str) -> Iterator[Chaos]:
    """Everything at work, and nothing broken yet."""
    site = Site(folder, "redis", 1, database_name=database)
    try:
        site.start()
        yield Chaos(site, print)
    finally:
        site.stop()


def killed(chaos: Chaos) -> None:
    """SIGKILL: no session is told."""
    chaos.site.database.failover(lambda server: server.kill())


def stopped(chaos: Chaos) -> None:
    """Every session is told that its server goes."""
    chaos.site.database.failover(lambda server: server.stop("immediate"))


def demoted(chaos: Chaos) -> None:
    """Every session is refused writes before it ends."""
    chaos.site.database.demote()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("database", "how"),
    [
        ("postgresql", killed),
        ("postgresql", stopped),
        ("postgresql", demoted),
        # A MariaDB that is not to wait for its clients is killed.
        ("mariadb", killed),
        ("mariadb", demoted),
    ],
)
def test_what_was_promised_is_there_after_a_failover_and_all_go_on(how: Callable[[Chaos], None], chaos: Chaos) -> None:
    chaos.site.go_on(START_TIMEOUT_S)
    first = chaos.site.database.primary
    # There and back: who was rebuilt, or has followed, serves as well as who has always served.
    for _ in range(2):
        how(chaos)
        chaos.site.go_on(BACK_TIMEOUT_S)
    assert chaos.site.database.primary is first
    chaos.settle()
    verdict = chaos.judged()
    assert verdict.good, "\n".join(verdict.lines)
    assert (verdict.lost, verdict.doubled, verdict.refused) == (0, 0, 0)
    assert chaos.ended_by_itself == 0
