"""The primary of the database goes, its standby takes its place, and relays, workers and beat go on by themselves."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.chaos import Chaos
from tests.faults.pair import Pair
from tests.faults.postgres import Postgres
from tests.faults.site import Site

START_TIMEOUT_S = 60
BACK_TIMEOUT_S = 30
"""How long relays and workers may take to find the new primary."""


@pytest.fixture
def chaos(folder: Path) -> Iterator[Chaos]:
    """Everything at work, and nothing broken yet."""
    site = Site(folder, "redis", 1)
    try:
        site.start()
        yield Chaos(site, print)
    finally:
        site.stop()


def pair(chaos: Chaos) -> Pair:
    assert isinstance(chaos.site.database, Pair)
    return chaos.site.database


def killed(chaos: Chaos) -> None:
    """SIGKILL: no session is told."""
    pair(chaos).failover(Postgres.kill)


def stopped(chaos: Chaos) -> None:
    """Every session is told that its server goes."""
    pair(chaos).failover(lambda server: server.stop("immediate"))


def demoted(chaos: Chaos) -> None:
    """Every session is refused writes before it ends."""
    pair(chaos).demote()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [killed, stopped, demoted])
def test_what_was_promised_is_there_after_a_failover_and_all_go_on(how: Callable[[Chaos], None], chaos: Chaos) -> None:
    chaos.site.go_on(START_TIMEOUT_S)
    first = pair(chaos).primary
    # There and back: who was rebuilt, or has followed, serves as well as who has always served.
    for _ in range(2):
        how(chaos)
        chaos.site.go_on(BACK_TIMEOUT_S)
    assert pair(chaos).primary is first
    chaos.settle()
    verdict = chaos.judged()
    assert verdict.good, "\n".join(verdict.lines)
    assert (verdict.lost, verdict.doubled, verdict.refused) == (0, 0, 0)
    assert chaos.ended_by_itself == 0
