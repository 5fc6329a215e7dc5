"""A real worker process on each broker."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from celery import Celery
from kombu import Consumer, Queue
from sqlalchemy import func, select

from relay_billing import BillingClient, Ledger, SettleJob
from relay_billing.broker.options import broker_options
from relay_billing.schema import billing_dead_letters, billing_sessions
from tests.fixtures.accounts import given, token, wallet
from tests.fixtures.brokers import Broker, on
from tests.fixtures.waiting import until
from tests.fixtures.workers import CELERY, Site, environment
from worker.patches.events import Events

TIMEOUT_S = 40.0
WEALTH = 1_000_000


@pytest.fixture
def client(site: Site) -> BillingClient:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    return BillingClient(site.database_url, site.broker.url)


def hold(client: BillingClient, request_id: str, quota: int = 100) -> None:
    client.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=quota)


def closed(site: Site, count: int) -> Callable[[], bool]:
    def condition() -> bool:
        c = billing_sessions.c
        with site.engine.connect() as connection:
            query = select(func.count()).where(c.state.in_(["settled", "refunded", "expired"]))
            return connection.execute(query).scalar_one() >= count

    return condition


def letters(site: Site) -> dict[str, str]:
    c = billing_dead_letters.c
    with site.engine.connect() as connection:
        return {row.reason: row.job for row in connection.execute(select(c.reason, c.job))}


def test_a_worker_settles_refunds_and_buries_what_it_is_sent(site: Site, client: BillingClient) -> None:
    site.worker(sweep_interval=3600, unknown_session_retries=1)
    for number in range(20):
        hold(client, f"s{number}")
        client.settle(f"s{number}", 60)
        client.settle(f"s{number}", 60)
        hold(client, f"r{number}")
        client.refund(f"r{number}", "upstream_error")
    until(closed(site, 40), TIMEOUT_S, "all sessions closed")
    client.settle("r0", 5)
    client.settle("nobody", 7)
    hold(client, "huge")
    client.settle("huge", 900_000_000)
    until(lambda: len(letters(site)) == 3, TIMEOUT_S, "three dead letters")
    client.close()
    assert wallet(site.engine) == WEALTH - 20 * 60 - 100
    assert token(site.engine) == WEALTH - 20 * 60 - 100
    found = letters(site)
    assert set(found) == {"conflict", "unknown_session", "implausible_amount"}
    assert json.loads(found["unknown_session"]) == {"request_id": "nobody", "actual_quota": 7, "reason": None}
    assert Ledger(site.engine).reconcile() == []


def test_a_message_that_is_no_job_is_buried_whole_and_its_neighbours_are_applied(
    site: Site, client: BillingClient
) -> None:
    site.worker(sweep_interval=3600)
    hold(client, "good")
    client.close()
    foreign = Celery("foreign", set_as_current=False)
    foreign.conf.update(broker_options(site.broker.url))
    jobs = [
        {"request_id": "good", "actual_quota": 30},
        {"request_id": "good", "actual_quota": -1},
        {"request_id": "good", "actual_quota": 30, "currency": "EUR"},
    ]
    foreign.send_task("billing.settle", kwargs={"jobs": jobs}, queue="billing")
    foreign.send_task("billing.refund", kwargs={"jobs": []}, queue="billing")
    foreign.close()

    def buried() -> bool:
        with site.engine.connect() as connection:
            query = select(func.count()).select_from(billing_dead_letters)
            return connection.execute(query).scalar_one() == 3

    until(buried, TIMEOUT_S, "three dead letters")
    until(closed(site, 1), TIMEOUT_S, "the valid job applied")
    assert wallet(site.engine) == WEALTH - 30
    assert set(letters(site)) == {"invalid_message"}


def test_two_workers_on_one_queue_share_the_work(site: Site, client: BillingClient) -> None:
    workers = [site.worker(f"worker{number}", concurrency=1, log_format="json") for number in range(2)]
    for number in range(300):
        hold(client, f"s{number}", 10)
        client.settle(f"s{number}", 10)
    until(closed(site, 300), TIMEOUT_S, "all sessions settled")
    client.close()
    for worker in workers:
        worker.stop()
    shares = [worker.output.count("billing.settle") for worker in workers]
    assert min(shares) > 0, shares
    assert wallet(site.engine) == WEALTH - 3_000


@on("redis", "filesystem")
def test_beat_applies_intents_and_closes_holds_that_nobody_closed(site: Site, client: BillingClient) -> None:
    hold(client, "intended")
    Ledger(site.engine).intend([_settle("intended", 70)])
    client.pre_consume(request_id="dead", user_id=1, token_id=1, quota=100, hold_ttl=1)
    client.close()
    site.worker(sweep_interval=1, intent_grace=1)
    env = environment(site.database_url, site.broker.url, site.folder / "beat", sweep_interval=1)
    site.spawn((*CELERY, "beat", "-l", "INFO"), env)
    until(closed(site, 2), TIMEOUT_S, "both sessions closed")
    assert wallet(site.engine) == WEALTH - 70


def _settle(request_id: str, quota: int) -> SettleJob:
    return SettleJob(request_id, quota)


@on("redis", "rabbitmq")
def test_a_broker_restarted_under_a_busy_worker_leaves_it_alive_and_consuming(
    site: Site, client: BillingClient
) -> None:
    worker = site.worker(intent_grace=3600)
    hold(client, "busy")
    client.settle("busy", 50)
    with site.engine.connect() as blocker:
        # One child waits for this lock with a job in hand, the other one is idle.
        blocker.exec_driver_sql("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        until(lambda: "Task billing.settle" in worker.output, TIMEOUT_S, "the job in hand")
        site.broker.stop()
        site.broker.start()
        blocker.rollback()
    until(closed(site, 1), TIMEOUT_S, "the job in hand applied")
    assert worker.popen.poll() is None, worker.output
    hold(client, "after")
    client.settle("after", 25)
    until(closed(site, 2), TIMEOUT_S, "a job after the restart applied")
    client.close()
    assert worker.popen.poll() is None, worker.output
    assert wallet(site.engine) == WEALTH - 75
    assert Ledger(site.engine).reconcile() == []


@on("redis", "rabbitmq")
def test_a_heartbeat_waits_for_no_broker_and_a_later_one_arrives(broker: Broker) -> None:
    app = Celery("test", broker=broker.url, events=Events)
    app.conf.update(broker_options(broker.url))
    with app.connection_for_write() as writing:
        sender = app.events.Dispatcher(writing)

        def beat() -> None:
            sender.send("worker-heartbeat", retry=True)

        beat()
        broker.stop()
        try:
            # What waits for ever does so in a thread that nobody waits for.
            waiting = threading.Thread(target=beat, daemon=True)
            waiting.start()
            waiting.join(10)
            assert not waiting.is_alive()
        finally:
            broker.start()
        arrived: list[object] = []
        queue = Queue("test", sender.exchange, routing_key="#", exclusive=True)
        with (
            app.connection_for_read() as reading,
            Consumer(reading, [queue], on_message=arrived.append, no_ack=True),
        ):

            def another() -> bool:
                beat()
                with suppress(TimeoutError):
                    reading.drain_events(timeout=1)
                return bool(arrived)

            until(another, TIMEOUT_S, "a heartbeat after the outage")
