"""The harness finds something wrong with every mutant: the product with one guarantee taken out."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from relay_billing.domain.choices import Durability
from tests.faults.chaos import Chaos
from tests.faults.relays import Way
from tests.faults.site import Site
from tests.faults.verdict import Verdict, promised
from tests.fixtures.waiting import until

WAITING = "FROM pg_stat_activity WHERE application_name LIKE '{who}%' AND wait_event_type = 'Lock'"
BUSY = WAITING.format(who="worker")
BUSY_KILLS, MOST_TRIES = 2, 30
DOOR_KILLS = 3


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
        (key,) = inspect(connection).get_unique_constraints("billing_ledger")
        connection.execute(text(f"ALTER TABLE billing_ledger DROP CONSTRAINT {key['name']}"))
    for _ in range(4):
        chaos.faults.duplicate()


def wipes(chaos: Chaos) -> None:
    """With the workers stopped, so that jobs wait in the queue."""
    for worker in chaos.site.named("worker"):
        worker.kill()
    before = promised(chaos.site.diaries)
    until(lambda: promised(chaos.site.diaries) > before + 20, 60, "settles that wait in the queue")
    chaos.faults.flush()


def kills_of_promising_doors(chaos: Chaos) -> None:
    """While a lock keeps intents from being written, so that no door may promise anything."""
    for _ in range(DOOR_KILLS):
        with chaos.site.engine.begin() as connection:
            connection.execute(text("LOCK TABLE billing_sessions IN EXCLUSIVE MODE"))
            time.sleep(JOBS_COME_S)
            for door in chaos.site.named("door"):
                door.kill()
            # A statement that waits for a lock outlives its client.
            connection.execute(text(f"SELECT pg_terminate_backend(pid, 5000) {WAITING.format(who='door')}"))
        for door in chaos.site.named("door"):
            door.start()
        before = promised(chaos.site.diaries)
        until(lambda before=before: promised(chaos.site.diaries) > before + 20, 60, "relays at work again")  # type: ignore[misc]


JOBS_COME_S = 0.5
"""How long the lock is held before anybody looks whether a worker has a job in hand."""
ACKNOWLEDGED_S = 0.5
"""How long a job has been in hand before its worker is killed: an early acknowledgement has reached the broker."""


def closed(engine: Engine) -> int:
    """Sessions that workers have closed."""
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(closed_at) FROM billing_sessions")).scalar_one())


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
        # Relays promise more while workers are still starting, which on a busy machine takes many seconds.
        before = closed(chaos.site.engine)
        until(lambda before=before: closed(chaos.site.engine) > before + 20, 60, "workers at work again")  # type: ignore[misc]
    raise AssertionError(f"{busy} of {BUSY_KILLS} times a worker was busy when it was killed")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("broker", "mutant", "faults"),
    [
        ("redis", {"worker_app": "tests.faults.mutants.repeating"}, duplicates),
        ("redis", {"worker_app": "tests.faults.mutants.repeating", "database_name": "mariadb"}, duplicates),
        ("redis", {"relay_module": "tests.faults.mutants.forgetful"}, wipes),
        (
            "rabbitmq",
            {"worker_app": "tests.faults.mutants.hasty", "durability": Durability.BROKER},
            kills_of_busy_workers,
        ),
        (
            "redis",
            {"door_module": "tests.faults.mutants.lying", "relays": (Way.HTTP, Way.HTTP)},
            kills_of_promising_doors,
        ),
    ],
    ids=[
        "no state condition",
        "no state condition, MariaDB",
        "no intent",
        "early acknowledgement",
        "early answer of a door",
    ],
)
def test_a_guarantee_that_is_taken_out_is_missed(
    broker: str, mutant: Mapping[str, Any], faults: Callable[[Chaos], None], folder: Path
) -> None:
    # With durability=database, the sweep would make up for a job that an early acknowledgement has lost.
    verdict = caught(Site(folder, broker, 1, **mutant), faults)
    assert not verdict.good
    assert verdict.lost + verdict.doubled > 0
