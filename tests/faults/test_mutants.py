"""The harness finds something wrong with every mutant: the product with one guarantee taken out."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from relay_billing.domain.choices import Durability
from tests.faults.chaos import Chaos
from tests.faults.site import Site
from tests.faults.verdict import Verdict, promised
from tests.fixtures.waiting import until

BUSY = "FROM pg_stat_activity WHERE application_name LIKE 'worker%' AND wait_event_type = 'Lock'"
BUSY_KILLS, MOST_TRIES = 2, 30


def caught(site: Site, faults: Callable[[Chaos], None]) -> Verdict:
    """Run a mutant through faults that its guarantee is for."""
    chaos = Chaos(site, print)
    try:
        site.start()
        until(lambda: promised(site.diaries) > 40, 60, "some settles told")
        faults(chaos)
        chaos.settle()
        return chaos.judged()
    finally:
        site.stop()


def duplicates(chaos: Chaos) -> None:
    """Without the ledger's unique key, the second guard behind the state."""
    with chaos.site.engine.begin() as connection:
        name = "SELECT conname FROM pg_constraint WHERE conrelid = 'billing_ledger'::regclass AND contype = 'u'"
        key = connection.execute(text(name)).scalar_one()
        connection.execute(text(f"ALTER TABLE billing_ledger DROP CONSTRAINT {key}"))
    for _ in range(4):
        chaos.faults.duplicate()


def wipes(chaos: Chaos) -> None:
    """With the workers stopped, so that jobs wait in the queue."""
    for worker in chaos.site.named("worker"):
        worker.kill()
    before = promised(chaos.site.diaries)
    until(lambda: promised(chaos.site.diaries) > before + 20, 60, "settles that wait in the queue")
    chaos.faults.flush()


JOBS_COME_S = 0.5
"""How long the lock is held before anybody looks whether a worker has a job in hand."""
ACKNOWLEDGED_S = 0.5
"""How long a job has been in hand before its worker is killed: an early acknowledgement has reached the broker."""


def kills_of_busy_workers(chaos: Chaos) -> None:
    """While a lock keeps jobs in hand."""
    # Without beat, who waits for users is a settle or a refund: a sweep in hand would lose nothing.
    (beat,) = chaos.site.named("beat")
    beat.kill()
    busy = 0
    for _ in range(MOST_TRIES):
        with chaos.site.engine.begin() as connection:
            # Writers wait, readers do not: what measures the database is not in hand either.
            connection.execute(text("LOCK TABLE users IN EXCLUSIVE MODE"))
            time.sleep(JOBS_COME_S)
            if not connection.execute(text(f"SELECT count(*) {BUSY}")).scalar_one():
                continue
            time.sleep(ACKNOWLEDGED_S)
            busy += 1
            for worker in chaos.site.named("worker"):
                worker.kill()
            # A statement that waits for a lock outlives its client: where it commits itself, nothing would be lost.
            connection.execute(text(f"SELECT pg_terminate_backend(pid, 5000) {BUSY}"))
        if busy == BUSY_KILLS:
            return
        for worker in chaos.site.named("worker"):
            worker.start()
        before = promised(chaos.site.diaries)
        until(lambda before=before: promised(chaos.site.diaries) > before + 20, 60, "relays at work again")  # type: ignore[misc]
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
    # Where there is an intent, the sweep makes up for a job that an early acknowledgement has lost.
    durability = Durability.BROKER if broker == "rabbitmq" else Durability.DATABASE
    verdict = caught(Site(folder, broker, 1, worker_app, relay, durability), faults)
    assert not verdict.good
    assert verdict.lost + verdict.doubled > 0
