"""The chaos finds nothing wrong with the product."""

import os
import secrets
from pathlib import Path

import pytest

from relay_billing.domain.choices import Durability
from tests.faults.chaos import SETTLED_WITHIN_S, play
from tests.faults.relays import MIXES
from tests.faults.site import Site

SECONDS = float(os.environ.get("CHAOS_SECONDS", "40"))
AROUND_S = 240
"""Starting everything, the last faults, and the time until the accounts are right."""


@pytest.mark.timeout(SECONDS + AROUND_S)
@pytest.mark.parametrize(
    ("database", "broker", "durability"),
    [
        ("postgresql", "redis", Durability.DATABASE),
        ("postgresql", "rabbitmq", Durability.DATABASE),
        ("postgresql", "rabbitmq", Durability.BROKER),
        ("mariadb", "redis", Durability.DATABASE),
    ],
)
def test_nothing_is_lost_and_nothing_doubled(database: str, broker: str, durability: Durability, folder: Path) -> None:
    seed = secrets.randbelow(10**6)
    log: list[str] = [f"seed {seed}"]
    site = Site(folder, broker, seed, durability=durability, relays=MIXES["mix"], database_name=database)
    chaos, verdict = play(site, SECONDS, log.append)
    assert verdict.good, "\n".join([*log, *verdict.lines])
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.settles > 100
    assert chaos.settled_after_s is not None
    assert chaos.settled_after_s <= SETTLED_WITHIN_S
    assert sum(chaos.faults.done.values()) > 0
