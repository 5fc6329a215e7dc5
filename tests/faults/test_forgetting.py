"""A broker loses its memory, and nobody restarts anything."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.chaos import Chaos
from tests.faults.faults import Faults
from tests.faults.site import Site

START_TIMEOUT_S = 60
BACK_TIMEOUT_S = 60
"""How long relays and workers may take to work together again: they have to notice, and to reach the broker."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("broker", "forget"),
    [
        ("redis", Faults.flush),
        ("redis", Faults.empty_broker),
        ("rabbitmq", Faults.delete_queue),
        ("rabbitmq", Faults.delete_exchange),
        ("rabbitmq", Faults.empty_broker),
    ],
)
def test_all_go_on_with_a_broker_that_forgot(broker: str, forget: Callable[[Faults], None], folder: Path) -> None:
    site = Site(folder, broker, 1)
    chaos = Chaos(site, print)
    try:
        site.start()
        site.go_on(START_TIMEOUT_S)
        forget(chaos.faults)
        site.go_on(BACK_TIMEOUT_S)
        # Once more, as the last thing that happens: now no relay is there to make anything anew.
        forget(chaos.faults)
        chaos.settle()
        verdict = chaos.judged()
    finally:
        site.stop()
    assert verdict.good, "\n".join(verdict.lines)
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert chaos.ended_by_itself == 0
