"""A worker that is connected and gets no messages finds that, and comes back without a restart."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import amqp
import pytest

from relay_billing import BillingClient, Ledger, Policy, SettleJob
from relay_billing.broker.publisher import Publisher
from relay_billing.broker.queues import billing_queue
from relay_billing.domain.jobs import QUEUE
from tests.faults.proxy import Proxy
from tests.fixtures.accounts import given, states, wallet
from tests.fixtures.brokers import Broker, on
from tests.fixtures.waiting import until
from tests.fixtures.workers import Process, Site
from worker.process.stage import Stage
from worker.process.state import WorkerState
from worker.process.watch import LOOK_EVERY_S, SILENT_SWEEPS

WEALTH = 1_000_000
SWEEP_INTERVAL_S = 1
CONNECTS_S = 15.0
"""Celery's own pauses before it connects, and its greeting of other workers, on a loaded machine."""
FOUND_S = 3 * LOOK_EVERY_S + CONNECTS_S
SILENCE_S = SILENT_SWEEPS * SWEEP_INTERVAL_S + FOUND_S
SOCKET_TIMEOUT_S = 30
"""kombu waits so long for the answer to its last request, in which there may be a message, before it closes a
connection to Redis (`config/celery.py`)."""
BASIC_CANCEL = bytes((0, 60, 0, 30))
"""How AMQP's method begins by which RabbitMQ informs a consumer that its queue is gone."""
MOMENTS_S = tuple(tenths / 10 for tenths in range(0, 26, 3))
"""Seconds after its connection was cut at which a worker's queue is deleted: before, while and after it connects."""


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    """Between worker and broker; the test itself asks the broker directly."""
    made = Proxy(broker.port)
    yield made
    made.close()


@pytest.fixture
def worker(site: Site, proxy: Proxy) -> Process:
    """A worker behind the proxy."""
    url = site.broker.url.replace(f":{site.broker.port}", f":{proxy.port}")
    behind = replace(site, broker=replace(site.broker, url=url))
    return behind.worker(sweep_interval=SWEEP_INTERVAL_S)


@pytest.fixture
def client(site: Site) -> Iterator[BillingClient]:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    made = BillingClient(site.database_url, site.broker.url, Policy(trust_quota=0))
    yield made
    made.close()


@pytest.fixture
def publisher(site: Site) -> Iterator[Publisher]:
    made = Publisher(site.broker.url, 5)
    yield made
    made.close()


def hold(client: BillingClient, request_id: str) -> None:
    client.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100)


def applied_in_time(site: Site, client: BillingClient, publisher: Publisher, request_id: str, timeout_s: float) -> None:
    """Hold and settle, by messages alone: beat does not run, so no sweep applies what no message brings."""
    hold(client, request_id)

    def settled() -> bool:
        # Again and again: a message may be lost with its queue, and one more changes nothing.
        publisher.post([SettleJob(request_id, 60)]).wait(5)
        return states(site.engine)[request_id] == "settled"

    until(settled, timeout_s, f"{request_id} applied")


def stages(site: Site) -> dict[int, Stage]:
    """What `health` sees of the worker."""
    return {each.pid: each.stage for each in WorkerState.all_here(str(site.folder / "worker"))}


def whole(site: Site, worker: Process, count: int) -> None:
    """The worker was not restarted, says that it consumes, and the accounts are right."""
    assert worker.popen.poll() is None, worker.output
    assert stages(site) == {worker.popen.pid: Stage.CONSUMING}
    assert wallet(site.engine) == WEALTH - count * 60
    assert Ledger(site.engine).reconcile() == []


def channel(broker: Broker) -> amqp.Connection:
    made = amqp.Connection(host=f"127.0.0.1:{urlsplit(broker.url).port}", userid="guest", password="guest")
    made.connect()
    return made


def delete_queue(broker: Broker, *, declare: bool = False) -> None:
    """Delete the queue `billing`, and declare it again immediately, before its consumers know."""
    queue = billing_queue("amqp")
    with channel(broker) as connection:
        used = connection.channel()
        used.queue_delete(QUEUE)
        if declare:
            used.queue_declare(QUEUE, durable=True, auto_delete=False, arguments=queue.queue_arguments)
            used.queue_bind(QUEUE, QUEUE, QUEUE)


@on("rabbitmq")
def test_a_worker_that_rabbitmq_did_not_inform_of_a_deleted_queue_comes_back(
    site: Site, proxy: Proxy, worker: Process, client: BillingClient, publisher: Publisher
) -> None:
    applied_in_time(site, client, publisher, "before", FOUND_S)
    proxy.loses = BASIC_CANCEL
    delete_queue(site.broker)
    until(lambda: proxy.lost == 1, CONNECTS_S, "RabbitMQ's message lost")
    proxy.loses = b""
    until(lambda: "reason=no_consumer" in worker.output, FOUND_S, "the worker finds it")
    applied_in_time(site, client, publisher, "after", FOUND_S)
    whole(site, worker, 2)


@on("rabbitmq")
def test_a_worker_comes_back_whose_queue_was_deleted_and_made_again_before_it_knew(
    site: Site, worker: Process, client: BillingClient, publisher: Publisher
) -> None:
    applied_in_time(site, client, publisher, "before", FOUND_S)
    delete_queue(site.broker, declare=True)
    applied_in_time(site, client, publisher, "after", SILENCE_S)
    whole(site, worker, 2)


@on("rabbitmq")
def test_a_message_that_rabbitmq_gave_to_a_lost_consumer_is_applied_when_the_worker_has_been_silent(
    site: Site, worker: Process, client: BillingClient, publisher: Publisher
) -> None:
    applied_in_time(site, client, publisher, "before", FOUND_S)
    delete_queue(site.broker, declare=True)
    hold(client, "after")
    assert publisher.post([SettleJob("after", 60)]).wait(5)
    until(lambda: states(site.engine)["after"] == "settled", SILENCE_S, "after applied")
    assert worker.output.count("reason=silent") == 1
    whole(site, worker, 2)


@on("rabbitmq")
def test_a_worker_comes_back_whenever_its_queue_is_deleted_around_a_reconnect(
    site: Site, proxy: Proxy, worker: Process, client: BillingClient, publisher: Publisher
) -> None:
    for number, moment_s in enumerate(MOMENTS_S):
        proxy.cut()
        threading.Event().wait(moment_s)
        delete_queue(site.broker)
        applied_in_time(site, client, publisher, f"r{number}", FOUND_S)
    whole(site, worker, len(MOMENTS_S))


@on("redis")
def test_a_worker_comes_back_whose_request_for_messages_was_lost(
    site: Site, proxy: Proxy, worker: Process, client: BillingClient, publisher: Publisher
) -> None:
    applied_in_time(site, client, publisher, "before", FOUND_S)
    proxy.loses = b"BRPOP"
    until(lambda: proxy.lost == 1, CONNECTS_S, "a request lost")
    proxy.loses = b""
    hold(client, "after")
    publisher.post([SettleJob("after", 60)])
    until(lambda: stages(site) == {worker.popen.pid: Stage.CONNECTING}, FOUND_S, "the worker says that it gets nothing")
    applied_in_time(site, client, publisher, "after", FOUND_S + SOCKET_TIMEOUT_S)
    assert worker.output.count("reason=starved") == 1
    whole(site, worker, 2)
