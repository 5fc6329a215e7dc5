"""What a worker does when it, its broker, its database or a message is not well."""

import fcntl
import json
import os
import pickle
import signal
import termios
import time
from collections import Counter
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import Connection

from relay_billing import BillingClient, Ledger, Policy, SettleJob
from relay_billing.broker.options import broker_options
from relay_billing.broker.queues import dead_queue
from relay_billing.domain.choices import Durability
from relay_billing.flows import dead_letters
from relay_billing.flows.dead_letters import Filter, KeptLetter
from tests.faults.verdict import settled
from tests.fixtures.accounts import given, states, wallet
from tests.fixtures.scraping import children
from tests.fixtures.waiting import until
from tests.fixtures.wire import Foreign
from tests.fixtures.workers import CELERY, Process, Site, environment

WEALTH = 1_000_000
TIMEOUT_S = 40.0
REDIS_PATIENCE_S = 30.0
"""A killed worker's jobs are back within this time, with the defaults."""

SERVERS = pytest.mark.parametrize(
    ("broker", "site"),
    [("redis", "postgresql"), ("rabbitmq", "postgresql"), ("redis", "mariadb")],
    indirect=True,
)
"""Files hand nothing out again and lose what a killed worker held: there the intent is the safety of a job."""

LOCKS = {
    "postgresql": (
        "LOCK TABLE users IN ACCESS EXCLUSIVE MODE",
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass",
    ),
    "mysql": (
        "SELECT id FROM users FOR UPDATE",
        # Not innodb_trx: who asks that more often than ten times a second is always answered the same.
        "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() "
        "AND command = 'Query' AND info LIKE '%%users%%' AND time_ms > 200",
    ),
}
"""What a job in hand waits for, and whether one does, by SQLAlchemy's name of the database."""


@pytest.fixture
def client(site: Site) -> BillingClient:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    return BillingClient(site.database_url, site.broker.url, Policy(trust_quota=0, durability=Durability.BROKER))


def hold(client: BillingClient, request_id: str, quota: int = 100) -> None:
    client.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=quota)


def letters(site: Site) -> list[KeptLetter]:
    return Ledger(site.engine).read(dead_letters.find, Filter(resolved=None))


def proved(site: Site) -> bool:
    return Ledger(site.engine).reconcile() == []


def blocked(site: Site, client: BillingClient) -> Connection:
    """A connection whose lock a job in hand waits for."""
    blocker = site.engine.connect()
    lock, waiting = LOCKS[site.engine.dialect.name]
    blocker.exec_driver_sql(lock)
    client.settle("busy", 60)
    until(lambda: blocker.exec_driver_sql(waiting).scalar_one() > 0, TIMEOUT_S, "the job in hand")
    return blocker


def waits(pid: int) -> bool:
    """Whether it waits for something to come through a pipe."""
    return "pipe_read" in Path(f"/proc/{pid}/wchan").read_text()


def unread(pid: int) -> bool:
    """Whether something waits in its pipes, stdout and stderr aside."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if int(link.name) > 2 and os.readlink(link).startswith("pipe:"):
            reader = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if any(fcntl.ioctl(reader, termios.FIONREAD, bytes(4))):
                    return True
            finally:
                os.close(reader)
    return False


def threads(worker: Process) -> int:
    """How many threads its main process has."""
    return len(os.listdir(f"/proc/{worker.popen.pid}/task"))


def acknowledged(site: Site, client: BillingClient, request_id: str) -> bool:
    """Whether the next worker gets the next job, and not this one again."""
    second = site.worker("second")
    hold(client, "next")
    client.settle("next", 10)
    until(lambda: settled(site.engine) == 2, TIMEOUT_S, "the next job applied")
    return f"request_id={request_id}" not in second.output


@SERVERS
def test_sigterm_waits_for_a_job_that_a_child_has_been_sent_and_not_begun(site: Site, client: BillingClient) -> None:
    worker = site.worker(concurrency=1, intent_grace=3600)
    (child,) = children(worker)
    until(lambda: waits(child) and not unread(child), TIMEOUT_S, "a child that the worker knows to be idle")
    os.kill(child, signal.SIGSTOP)
    hold(client, "sent")
    client.settle("sent", 60)
    until(lambda: unread(child), TIMEOUT_S, "the job with the child")
    before = threads(worker)
    worker.popen.send_signal(signal.SIGTERM)
    # Celery has one more while it waits for its children.
    until(lambda: threads(worker) > before, TIMEOUT_S, "the end begun")
    os.kill(child, signal.SIGCONT)
    assert worker.popen.wait(20) == 0, worker.output
    assert states(site.engine) == {"sent": "settled"}
    assert acknowledged(site, client, "sent")
    client.close()


@SERVERS
def test_sigterm_finishes_the_job_in_hand_and_acknowledges_it(site: Site, client: BillingClient) -> None:
    worker = site.worker()
    hold(client, "busy")
    blocker = blocked(site, client)
    worker.popen.send_signal(signal.SIGTERM)
    until(lambda: "soft shutdown" in worker.output or "Warm shutdown" in worker.output, TIMEOUT_S, "the shutdown begun")
    blocker.rollback()
    blocker.close()
    assert worker.popen.wait(30) == 0
    assert states(site.engine) == {"busy": "settled"}
    assert acknowledged(site, client, "busy")
    client.close()


@SERVERS
def test_a_killed_workers_jobs_are_applied_by_another_one(site: Site, client: BillingClient) -> None:
    worker = site.worker()
    hold(client, "busy")
    blocker = blocked(site, client)
    os.killpg(worker.popen.pid, signal.SIGKILL)
    killed = time.monotonic()
    worker.popen.wait()
    blocker.rollback()
    blocker.close()
    site.worker("second")
    until(lambda: settled(site.engine) == 1, 2 * REDIS_PATIENCE_S, "the job applied by the second worker")
    assert time.monotonic() - killed < REDIS_PATIENCE_S
    client.close()
    assert wallet(site.engine) == WEALTH - 60
    assert proved(site)


@SERVERS
def test_a_job_that_kills_its_worker_is_buried_and_its_neighbours_are_applied(
    site: Site, client: BillingClient, tmp_path: Path
) -> None:
    for name in ("before", "deadly", "after"):
        hold(client, name)
    env = environment(site.database_url, site.broker.url, tmp_path / "var")
    command = (*CELERY[:3], "-A", "tests.faults.poisoned", "worker", "-Q", "billing", "-c", "1", "-l", "INFO")
    worker = site.spawn(command, env)
    jobs = [{"request_id": name, "actual_quota": 60} for name in ("before", "deadly", "after")]
    Foreign("billing.settle", {"jobs": jobs}).post(site.broker)

    def deadly() -> list[tuple[str, str | None, int]]:
        # Its own alone: a message whose worker another test has killed comes again, and its session is gone.
        return [(each.reason, each.request_id, each.quota) for each in letters(site) if each.request_id in named]

    named = [job["request_id"] for job in jobs]
    until(lambda: bool(deadly()), TIMEOUT_S, "the deadly job buried")
    until(lambda: settled(site.engine) == 2, TIMEOUT_S, "its neighbours applied")
    found = deadly()
    assert found == [("poison", "deadly", 60)]
    assert worker.popen.poll() is None
    assert wallet(site.engine) == WEALTH - 2 * 60 - 100
    client.close()


JOB = {"request_id": "good", "actual_quota": 60}
FOREIGN = [
    Foreign("billing.charge", {"jobs": [JOB]}),
    Foreign("billing.settle", body=b'{"jobs": ['),
    Foreign("billing.settle", body=pickle.dumps(("pickled",)), content_type="application/x-python-serialize"),
    Foreign("", headers={}, body=b'"hello"'),
    Foreign("billing.settle", {"jobs": [JOB] * 501}),
    Foreign("billing.settle", {"version": 2, "jobs": [JOB]}),
    Foreign("billing.refund", {"jobs": [{"request_id": 5}]}),
]


def test_what_celery_would_drop_is_kept_whole_and_the_worker_goes_on(site: Site, client: BillingClient) -> None:
    worker = site.worker(sweep_interval=1)
    hold(client, "good")
    for message in FOREIGN:
        message.post(site.broker)
    until(lambda: len(letters(site)) >= len(FOREIGN), TIMEOUT_S, f"{len(FOREIGN)} dead letters")
    client.settle("good", 60)
    until(lambda: settled(site.engine) == 1, TIMEOUT_S, "a good job applied")
    client.close()
    assert worker.popen.poll() is None
    kept = letters(site)
    assert Counter(each.reason for each in kept) == {"invalid_message": len(FOREIGN)}
    assert all(json.loads(each.job) is not None for each in kept)
    assert any("hello" in each.job for each in kept)
    assert any("pickled" in each.job for each in kept)


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_what_rabbitmq_gave_up_is_dealt_with_by_the_sweep(site: Site, client: BillingClient) -> None:
    hold(client, "dead")
    foreign = Celery("foreign", set_as_current=False)
    foreign.conf.update(broker_options(site.broker.url))
    with foreign.connection_for_write() as connection:
        dead_queue()(connection.default_channel).declare()
    jobs = [{"request_id": "dead", "actual_quota": 60}, {"request_id": "nobody", "actual_quota": 5}]
    dead = {"exchange": dead_queue().exchange, "routing_key": "x"}
    foreign.send_task("billing.settle", kwargs={"jobs": jobs}, **dead)
    foreign.send_task("billing.purge", **dead)
    foreign.send_task("billing.charge", **dead)
    worker = site.worker()
    foreign.send_task("billing.sweep", queue="billing")
    until(lambda: settled(site.engine) == 1, TIMEOUT_S, "the dead job applied")
    until(lambda: "rejected_messages=3" in worker.output, TIMEOUT_S, "the dead queue empty")
    assert sorted((each.reason, each.task, each.request_id) for each in letters(site)) == [
        ("invalid_message", "billing.charge", None),
        ("unknown_session", "billing.settle", "nobody"),
    ]
    foreign.close()
    client.close()


@SERVERS
def test_a_sweep_applies_what_a_broker_forgot(site: Site, client: BillingClient) -> None:
    hold(client, "forgotten")
    Ledger(site.engine).intend([SettleJob("forgotten", 60)])
    site.worker(intent_grace=1)
    env = environment(site.database_url, site.broker.url, site.folder / "beat", sweep_interval=1)
    site.spawn((*CELERY, "beat"), env)
    until(lambda: settled(site.engine) == 1, TIMEOUT_S, "the intent applied")
    client.close()
