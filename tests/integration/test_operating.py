"""`status`, `health` and `drain` beside real workers: what they say, and with which exit code."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from relay_billing import BillingClient, Ledger, migrations
from relay_billing.flows import heartbeats
from tests.fixtures.accounts import given, states
from tests.fixtures.brokers import filesystem, free_port, on
from tests.fixtures.typed import typed
from tests.fixtures.waiting import until
from tests.fixtures.workers import CELERY, ROOT, Site, environment
from worker.process import health
from worker.process.heartbeat import Heartbeat

TIMEOUT_S = 40.0
WEALTH = 1_000_000
HUGE = 600_000_000


@pytest.fixture
def client(site: Site) -> Iterator[BillingClient]:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    made = BillingClient(site.database_url, site.broker.url)
    yield made
    made.close()


def hold(client: BillingClient, request_id: str) -> None:
    client.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100)


def test_status_shows_workers_queues_and_sessions_on_one_screen(site: Site, client: BillingClient) -> None:
    worker = site.worker(sweep_interval=3600)
    hold(client, "open")
    hold(client, "huge")
    client.settle("huge", HUGE)
    until(lambda: Ledger(site.engine).overview().dead_letters.count == 1, TIMEOUT_S, "a dead letter")
    Ledger(site.engine).reconcile()
    found = typed(site, "status", "--json")
    assert found.code == 0
    seen = found.json
    assert [(each["pid"], each["children"]) for each in seen["workers"]] == [(worker.popen.pid, 2)]
    overview = seen["standing"]["overview"]
    assert (overview["holds"]["count"], overview["holds"]["quota"], overview["parked"]) == (2, 200, 1)
    assert (overview["dead_letters"]["count"], overview["dead_letters"]["quota"]) == (1, HUGE)
    assert overview["reconcile"]["drifts"] == 0
    assert {each["name"] for each in seen["standing"]["queues"]} >= {"billing", "billing.webhooks"}
    screen = typed(site, "status")
    assert screen.code == 0
    assert len(screen.said.splitlines()) <= 40
    for words in ("worker@", "billing", "open holds", "dead letters", "$1200.000000", "no drift", "Last sweep: never"):
        assert words in screen.said


@on("filesystem")
def test_status_is_watched_until_it_is_interrupted(site: Site) -> None:
    ours, theirs = os.openpty()
    env = environment(site.database_url, site.broker.url, site.folder / "worker") | {"TERM": "xterm"}
    command = (sys.executable, "-m", "worker", "status", "--watch")
    watching = subprocess.Popen(command, env=env, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = ""

    def looked_again() -> bool:
        nonlocal shown
        shown += os.read(ours, 65_536).decode()
        return len(set(re.findall(r"relay-billing, (\S+ \S+) UTC", shown))) >= 2

    try:
        until(looked_again, TIMEOUT_S, "two looks")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
    assert "open holds" in shown
    assert "Traceback" not in shown


@on("redis", "rabbitmq")
def test_status_names_what_is_away(site: Site) -> None:
    site.broker.stop()
    found = typed(site, "status")
    site.broker.start()
    assert found.code == 2
    assert "The broker can't be asked" in found.said
    assert "open holds" in found.said


def test_status_without_a_database_is_a_refusal(tmp_path: Path) -> None:
    broker = filesystem(tmp_path)
    env = environment("postgresql://u@127.0.0.1:1/x", broker.url, tmp_path)
    command = (sys.executable, "-m", "worker", "status")
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    assert "The database can't be read: " in done.stdout


@on("redis", "rabbitmq")
def test_health_sees_a_worker_that_consumes_and_the_broker_that_is_away(site: Site) -> None:
    assert typed(site, "health").code == 1
    worker = site.worker()
    until(lambda: typed(site, "health").code == 0, TIMEOUT_S, "healthy")
    found = typed(site, "health", "--json").json
    assert found["healthy"]
    assert {name: each["good"] for name, each in found["checks"].items()} == dict.fromkeys(
        ("alive", "consuming", "broker", "database", "sweeps"), True
    )
    assert typed(site, "health", "--live").code == 0
    site.broker.stop()
    until(lambda: not consuming(site), TIMEOUT_S, "not consuming")
    found = typed(site, "health", "--json").json
    good = {name: each["good"] for name, each in found["checks"].items()}
    assert good == {"alive": True, "consuming": False, "broker": False, "database": True, "sweeps": True}
    assert typed(site, "health", "--live").code == 0
    site.broker.start()
    until(lambda: consuming(site), TIMEOUT_S, "consuming again")
    assert worker.popen.poll() is None
    worker.popen.send_signal(signal.SIGKILL)
    worker.popen.wait()
    assert typed(site, "health").code == 1


def consuming(site: Site) -> bool:
    good: bool = typed(site, "health", "--json").json["checks"]["consuming"]["good"]
    return good


@on("filesystem")
def test_health_names_a_missing_migration(site: Site) -> None:
    with site.engine.begin() as connection:
        migrations.downgrade(connection, "0001")
    found = typed(site, "health", "--json").json["checks"]["database"]
    assert not found["good"]
    assert "0001" in found["detail"]
    assert "python -m worker migrate" in found["detail"]


def test_health_takes_less_than_a_second_when_nothing_answers(tmp_path: Path) -> None:
    # An address that swallows what it is sent: neither answers nor refuses.
    settings = Settings(
        database_url="postgresql://u@192.0.2.1/x", broker_url="redis://192.0.2.1:6379/0", var_dir=str(tmp_path)
    )
    began = time.monotonic()
    found = health.run(settings, "worker")
    assert time.monotonic() - began < 1
    assert [each.name for each in found] == ["alive", "consuming", "broker", "database", "sweeps"]
    assert not any(each.good for each in found)


@on("redis", "rabbitmq")
def test_drain_finishes_what_is_in_hand_and_ends_the_worker(site: Site, client: BillingClient) -> None:
    worker = site.worker(concurrency=1)
    other = site.worker("other", concurrency=1)
    until(lambda: consuming(site), TIMEOUT_S, "consuming")
    for number in range(50):
        hold(client, f"s{number}")
        client.settle(f"s{number}", 60)
    done = typed(site, "drain", "--json")
    assert done.code == 0, worker.output
    assert done.json == {"ended": [worker.popen.pid], "left": []}
    assert worker.popen.wait(10) == 0
    assert typed(site, "health").code == 1
    # The other worker, of another folder, was not asked; it does what the first one gave back.
    until(lambda: set(states(site.engine).values()) == {"settled"}, TIMEOUT_S, "all settled")
    assert other.popen.poll() is None
    assert typed(site, "drain").said.strip() == "no worker runs here"


@on("filesystem")
def test_a_worker_started_after_a_drain_works(site: Site, client: BillingClient) -> None:
    assert typed(site, "drain").code == 0
    worker = site.worker(metrics_port=free_port())
    until(lambda: consuming(site), TIMEOUT_S, "consuming")
    hold(client, "s1")
    client.settle("s1", 60)
    until(lambda: states(site.engine) == {"s1": "settled"}, TIMEOUT_S, "settled")
    assert worker.popen.poll() is None


@on("redis")
def test_health_of_beat_asks_for_no_consumer(site: Site) -> None:
    env = environment(site.database_url, site.broker.url, site.folder / "worker")
    site.spawn((*CELERY, "beat", "-l", "INFO"), env)
    until(lambda: typed(site, "health", "beat").code == 0, TIMEOUT_S, "beat healthy")
    assert set(typed(site, "health", "beat", "--json").json["checks"]) == {"alive", "broker", "database"}


@on("filesystem")
def test_health_sees_that_sweeps_do_not_come_through(site: Site) -> None:
    settings = Settings(database_url=site.database_url, broker_url=site.broker.url, var_dir=str(site.folder / "worker"))
    began = Heartbeat(settings.var_dir, "worker").file
    began.parent.mkdir()

    def sweeps() -> tuple[bool, str]:
        (found,) = [each for each in health.run(settings, "worker") if each.name == "sweeps"]
        return found.good, found.detail

    assert sweeps() == (True, "none yet")
    began.write_text(str(time.time() - 55))
    assert sweeps()[0]
    began.write_text(str(time.time() - 65))
    good, detail = sweeps()
    assert not good
    assert "none ever came through" in detail
    Ledger(site.engine).run(heartbeats.remember, heartbeats.SWEEP)
    assert sweeps()[0]
    assert "Last sweep: never" not in typed(site, "status").said
