"""A broker that loses its keys, queues or exchanges, and no connection: nothing is lost, and nothing restarted."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import amqp
import pytest
import redis
from kombu import Connection
from sqlalchemy import func, select

from relay_billing import BillingClient, Ledger, Policy, SettleJob
from relay_billing.broker.options import broker_options
from relay_billing.broker.publisher import Publisher
from relay_billing.domain.choices import Durability
from relay_billing.domain.dead_letters import Letter
from relay_billing.domain.jobs import QUEUE, WEBHOOKS_QUEUE
from relay_billing.flows import dead_letters
from relay_billing.flows.dead_letters import Filter
from relay_billing.flows.strays import LONGEST_PAUSE_S
from relay_billing.schema import billing_strays
from tests.fixtures.accounts import given, states, wallet
from tests.fixtures.brokers import Broker, on
from tests.fixtures.receiver import Receiver
from tests.fixtures.typed import typed
from tests.fixtures.waiting import until
from tests.fixtures.webhook_workers import settings as telling
from tests.fixtures.webhook_workers import webhook_worker
from tests.fixtures.wire import EMBED
from tests.fixtures.workers import CELERY, Process, Site, environment

TIMEOUT_S = 40.0
WEALTH = 1_000_000
SHORT: dict[str, Any] = {"sweep_interval": 1, "intent_grace": 1, "unknown_session_retries": 1}
PATIENCE_S = SHORT["sweep_interval"] + SHORT["intent_grace"] + 5.0
"""After it has forgotten, nothing may take longer."""


def wiped(broker: Broker) -> None:
    """Redis has no keys any more, and all its connections."""
    with redis.Redis.from_url(broker.url) as server:
        server.flushall()


def unbound(broker: Broker) -> None:
    """Redis has evicted what kombu keeps there of exchanges."""
    with redis.Redis.from_url(broker.url) as server:
        assert server.delete(*server.keys("_kombu.binding.*"))


def emptied(broker: Broker) -> None:
    """Redis has evicted all but what kombu keeps there of exchanges."""
    with redis.Redis.from_url(broker.url) as server:
        keys = [key for key in server.scan_iter() if not key.startswith(b"_kombu.binding.")]
        assert not keys or server.delete(*keys)


def channel(broker: Broker) -> amqp.Connection:
    """A connection to RabbitMQ, without Celery."""
    connection = amqp.Connection(host=f"127.0.0.1:{urlsplit(broker.url).port}", userid="guest", password="guest")
    connection.connect()
    return connection


def without_queue(broker: Broker) -> None:
    """RabbitMQ has no queue `billing` any more."""
    with channel(broker) as connection:
        connection.channel().queue_delete(QUEUE)


def without_exchange(broker: Broker) -> None:
    """RabbitMQ has no exchange `billing` any more."""
    with channel(broker) as connection:
        connection.channel().exchange_delete(QUEUE)


def without_both(broker: Broker) -> None:
    """RabbitMQ has neither."""
    without_queue(broker)
    without_exchange(broker)


Losses = Mapping[str, Callable[[Broker], None]]
"""What may be lost, by the broker's name."""
MESSAGES: Losses = {"redis": emptied, "rabbitmq": without_queue}
ROUTES: Losses = {"redis": unbound, "rabbitmq": without_exchange}
EVERYTHING: Losses = {"redis": wiped, "rabbitmq": without_both}


def without_webhooks(broker: Broker) -> None:
    """RabbitMQ has neither the queue nor the exchange `billing.webhooks` any more."""
    with channel(broker) as connection:
        connection.channel().queue_delete(WEBHOOKS_QUEUE)
        connection.channel().exchange_delete(WEBHOOKS_QUEUE)


def without_delays(broker: Broker) -> None:
    """RabbitMQ has lost Celery's delayed delivery, and the messages that wait in it."""
    with channel(broker) as connection:
        for level in range(28):
            connection.channel().queue_delete(f"celery_delayed_{level}")
            connection.channel().exchange_delete(f"celery_delayed_{level}")


def beat(site: Site, **settings: object) -> Process:
    env = environment(site.database_url, site.broker.url, site.folder / "beat", **settings)
    return site.spawn((*CELERY, "beat", "-l", "INFO"), env)


@pytest.fixture
def durability() -> Durability:
    """What makes a settle safe, where a test does not say."""
    return Durability.DATABASE


@pytest.fixture
def client(site: Site, durability: Durability) -> Iterator[BillingClient]:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    made = BillingClient(site.database_url, site.broker.url, Policy(trust_quota=0, durability=durability))
    yield made
    made.close()


def hold(client: BillingClient, *request_ids: str) -> None:
    for each in request_ids:
        client.pre_consume(request_id=each, user_id=1, token_id=1, quota=100)


def settled(site: Site, *request_ids: str) -> Callable[[], bool]:
    return lambda: {states(site.engine)[each] for each in request_ids} == {"settled"}


@on("redis", "rabbitmq")
@pytest.mark.parametrize(
    ("losses", "durability"),
    [(MESSAGES, Durability.BROKER), (ROUTES, Durability.DATABASE), (EVERYTHING, Durability.BROKER)],
    ids=["messages", "routes", "everything"],
)
def test_what_is_settled_after_a_broker_forgot_is_applied_by_message_and_by_sweep(
    site: Site, client: BillingClient, losses: Losses
) -> None:
    worker = site.worker(**SHORT)
    beat(site, **SHORT)
    # Everybody has posted: a publisher or a beat that is new declares what it needs.
    hold(client, "before", "swept before", "after", "swept")
    client.settle("before", 60)
    Ledger(site.engine).intend([SettleJob("swept before", 60)])
    until(settled(site, "before", "swept before"), TIMEOUT_S, "all is well at first")
    losses[site.broker.name](site.broker)
    client.settle("after", 60)
    Ledger(site.engine).intend([SettleJob("swept", 60)])
    until(settled(site, "after", "swept"), PATIENCE_S, "applied though the broker forgot")
    assert worker.popen.poll() is None
    assert [each["pid"] for each in typed(site, "status", "--json").json["workers"]] == [worker.popen.pid]
    assert wallet(site.engine) == WEALTH - 4 * 60
    assert Ledger(site.engine).reconcile() == []


def strays(site: Site) -> int:
    with site.engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(billing_strays)).scalar_one())


def buried(site: Site) -> list[str]:
    return sorted(str(each.request_id) for each in Ledger(site.engine).read(dead_letters.find, Filter()))


@on("redis", "rabbitmq")
def test_a_job_without_a_session_becomes_a_dead_letter_whatever_becomes_of_its_retries(
    site: Site, client: BillingClient
) -> None:
    site.worker(**{**SHORT, "unknown_session_retries": 3})
    beat(site, **SHORT)
    client.settle("waits", 5)
    until(lambda: strays(site) == 1, TIMEOUT_S, "the job kept while its message waits")
    {"redis": wiped, "rabbitmq": without_delays}[site.broker.name](site.broker)
    client.settle("refused", 6)
    # On Redis the message waits in the worker's memory, and is tried to the end.
    until(lambda: buried(site) == ["refused", "waits"], TIMEOUT_S, "both buried")
    until(lambda: strays(site) == 0, LONGEST_PAUSE_S + PATIENCE_S, "nothing left to wait for")
    assert {each.reason for each in Ledger(site.engine).read(dead_letters.find, Filter())} == {"unknown_session"}


@on("redis", "rabbitmq")
def test_a_relay_that_posts_to_the_exchange_is_heard_again_after_a_sweep(site: Site, client: BillingClient) -> None:
    site.worker(**SHORT)
    beat(site, **SHORT)
    hold(client, "old")
    until(lambda: Ledger(site.engine).overview().swept_at is not None, TIMEOUT_S, "a sweep")
    {"redis": wiped, "rabbitmq": without_exchange}[site.broker.name](site.broker)
    forgot_at = Ledger(site.engine).overview().at
    # The broker is kept in order at the end of a sweep: one has to end that has begun since.
    swept = forgot_at + 1_000
    until(lambda: (Ledger(site.engine).overview().swept_at or 0) > swept, PATIENCE_S, "two sweeps")
    post_to_the_exchange(site.broker, SettleJob("old", 60))
    until(settled(site, "old"), TIMEOUT_S, "a message by the exchange applied")


def post_to_the_exchange(broker: Broker, job: SettleJob) -> None:
    """As relays have posted before: with a binding that is there, or else it is lost. Declares nothing."""
    options = broker_options(broker.url)
    headers = {"lang": "py", "task": "billing.settle", "id": str(uuid4()), "retries": 0}
    body = json.dumps([[], {"jobs": [job.wire()]}, EMBED])
    with Connection(options["broker_url"], transport_options=options.get("broker_transport_options", {})) as connection:
        connection.Producer().publish(
            body,
            exchange=QUEUE,
            routing_key=QUEUE,
            content_type="application/json",
            content_encoding="utf-8",
            headers=headers,
            correlation_id=headers["id"],
        )


@on("redis", "rabbitmq")
def test_webhooks_are_delivered_after_a_broker_forgot(site: Site, receiver: Receiver) -> None:
    chosen = telling(receiver)
    webhook_worker(site, **chosen)
    ledger = Ledger(site.engine, Policy(announce=True))

    def tell(what: str) -> None:
        ledger.run(dead_letters.keep, [Letter.of_message("billing.settle", what, what)])

    tell("before")
    until(lambda: len(receiver.events) == 1, TIMEOUT_S, "all is well at first")
    {"redis": wiped, "rabbitmq": without_webhooks}[site.broker.name](site.broker)
    tell("after")
    until(lambda: len(set(receiver.ids)) == 2, PATIENCE_S, "told though the broker forgot")


@on("rabbitmq")
def test_a_message_without_a_queue_is_not_posted_and_later_ones_are(broker: Broker) -> None:
    publisher = Publisher(broker.url, 5)

    def posted() -> bool:
        return publisher.post([SettleJob("r1", 5)]).wait(TIMEOUT_S)

    assert posted()
    without_queue(broker)
    # More than one: the confirmation of a message that came back is not taken for that of the next one.
    assert [posted() for _ in range(3)] == [False] * 3
    until(posted, PATIENCE_S, "a queue declared anew, for there is no worker to do it")
    publisher.close()
    with channel(broker) as connection:
        assert connection.channel().queue_declare(QUEUE, passive=True).message_count == 1
