"""The chaos finds nothing wrong with the product, and something wrong with every mutant."""

import os
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.faults.chaos import Chaos, play
from tests.faults.site import WEALTH, Site
from tests.faults.verdict import Verdict, judge
from tests.fixtures.waiting import until

SECONDS = float(os.environ.get("CHAOS_SECONDS", "40"))
DRAIN_S = 240
BUSY = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'worker%' AND wait_event_type = 'Lock'"
BUSY_KILLS, MOST_TRIES = 2, 30


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that another user's PostgreSQL may enter; not pytest's own, which each pytest closes to others anew."""
    with tempfile.TemporaryDirectory(prefix="billing-faults-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.timeout(SECONDS + DRAIN_S)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_nothing_is_lost_and_nothing_doubled(broker: str, folder: Path) -> None:
    seed = secrets.randbelow(10**6)
    log: list[str] = [f"seed {seed}"]
    chaos, verdict = play(Site(folder, broker, seed), SECONDS, log.append)
    assert verdict.good, "\n".join([*log, *verdict.lines])
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.settles > 100
    assert chaos.done["kills"] > 0


def caught(site: Site, faults: Callable[[Chaos], None]) -> Verdict:
    """Run a mutant through faults that its guarantee is for."""
    chaos = Chaos(site, random.Random(1), print)
    try:
        site.start()
        until(lambda: told(site) > 40, 60, "some settles told")
        faults(chaos)
        chaos.drain()
        return judge(site.engine, site.folder.glob("*.diary"), WEALTH)
    finally:
        site.stop()


def told(site: Site) -> int:
    """Settles that returned."""
    return sum(diary.read_text().count('"settled"') for diary in site.folder.glob("*.diary"))


def duplicates(chaos: Chaos) -> None:
    """Without the ledger's unique key, the second guard behind the state."""
    with chaos.site.engine.begin() as connection:
        name = "SELECT conname FROM pg_constraint WHERE conrelid = 'billing_ledger'::regclass AND contype = 'u'"
        key = connection.execute(text(name)).scalar_one()
        connection.execute(text(f"ALTER TABLE billing_ledger DROP CONSTRAINT {key}"))
    for _ in range(4):
        chaos.duplicate()


def wipes(chaos: Chaos) -> None:
    """With the workers stopped, so that jobs wait in the queue."""
    for worker in chaos.site.named("worker"):
        worker.kill()
    before = told(chaos.site)
    until(lambda: told(chaos.site) > before + 20, 60, "settles that wait in the queue")
    chaos.wipe()


def kills_of_busy_workers(chaos: Chaos) -> None:
    """While a lock keeps jobs in hand."""
    busy = 0
    for _ in range(MOST_TRIES):
        with chaos.site.engine.begin() as connection:
            connection.execute(text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
            time.sleep(0.5)
            if not connection.execute(text(BUSY)).scalar_one():
                continue
            busy += 1
            for worker in chaos.site.named("worker"):
                worker.kill()
        if busy == BUSY_KILLS:
            return
        for worker in chaos.site.named("worker"):
            worker.start()
        before = told(chaos.site)
        until(lambda before=before: told(chaos.site) > before + 20, 60, "relays at work again")  # type: ignore[misc]
    raise AssertionError(f"{busy} of {BUSY_KILLS} times a worker was busy when it was killed")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("broker", "worker_app", "relay", "faults"),
    [
        ("redis", "tests.faults.mutants.repeating", "tests.faults.relay", duplicates),
        ("redis", "worker", "tests.faults.mutants.forgetful", wipes),
        ("rabbitmq", "tests.faults.mutants.hasty", "tests.faults.relay", kills_of_busy_workers),
    ],
    ids=["no state condition", "no intent", "early acknowledgement"],
)
def test_a_guarantee_that_is_taken_out_is_missed(
    broker: str, worker_app: str, relay: str, faults: Callable[[Chaos], None], folder: Path
) -> None:
    verdict = caught(Site(folder, broker, 1, worker_app, relay), faults)
    assert not verdict.good
    assert verdict.lost + verdict.doubled > 0
