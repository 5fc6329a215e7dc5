"""The golden messages of docs/wire.md: those very bytes, posted without Celery, are applied by a real worker."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import amqp
import pytest
import redis
from sqlalchemy import Engine, text

from relay_billing import BillingClient, Ledger, RefundJob, SettleJob
from relay_billing.broker.publisher import Publisher
from relay_billing.domain.jobs import QUEUE, Job
from tests.fixtures.accounts import START, Clock, given, states, wallet
from tests.fixtures.brokers import Broker
from tests.fixtures.waiting import until
from tests.fixtures.workers import ROOT, Site

GOLDEN = ROOT / "docs" / "examples" / "wire"
PREFIX = {"redis": "redis", "rabbitmq": "amqp"}
JOBS: dict[str, Job] = {"settle": SettleJob("r1", 80), "refund": RefundJob("r2", "upstream_error")}
OF_ONE_MESSAGE = {"id", "correlation_id", "delivery_tag"}
"""Values that every message has of its own."""
WEALTH = 1_000_000
TIMEOUT_S = 40.0

servers = pytest.mark.parametrize("broker", list(PREFIX), indirect=True)


def golden(broker: Broker, kind: str) -> Path:
    return GOLDEN / f"{PREFIX[broker.name]}-{kind}.json"


def at(broker: Broker) -> redis.Redis:
    return redis.Redis.from_url(broker.url)


def channel(broker: Broker) -> amqp.Connection:
    connection = amqp.Connection(host=f"127.0.0.1:{urlsplit(broker.url).port}", userid="guest", password="guest")
    connection.connect()
    return connection


def push(broker: Broker, file: Path) -> None:
    """Post a golden message as another language's client would."""
    if broker.name == "redis":
        with at(broker) as server:
            server.lpush(QUEUE, file.read_bytes())
        return
    message = json.loads(file.read_text())
    properties = {**message["properties"], "application_headers": message["headers"]}
    with channel(broker) as connection:
        connection.channel().basic_publish(
            amqp.Message(message["body"], **properties),
            exchange=message["exchange"],
            routing_key=message["routing_key"],
        )


def sent(broker: Broker, job: Job) -> Mapping[str, Any]:
    """The message that our own publisher makes of a job, in the form of the golden ones."""
    publisher = Publisher(broker.url, 5)
    assert publisher.post([job]).wait(10)
    publisher.close()
    if broker.name == "redis":
        with at(broker) as server:
            envelope: dict[str, Any] = json.loads(server.rpop(QUEUE))
            return envelope
    with channel(broker) as connection:
        found = connection.channel().basic_get(QUEUE, no_ack=True)
    properties = dict(found.properties)
    return {
        "exchange": found.delivery_info["exchange"],
        "routing_key": found.delivery_info["routing_key"],
        "headers": properties.pop("application_headers"),
        "properties": properties,
        "body": found.body,
    }


def spoken(message: Mapping[str, Any]) -> object:
    """What the body says, whatever the spaces in it."""
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    return json.loads(body)


@servers
def test_golden_messages_are_applied_by_a_real_worker(site: Site) -> None:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    client = BillingClient(site.database_url, site.broker.url)
    for request_id in ("r1", "r2"):
        client.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100)
    client.close()
    site.worker(sweep_interval=3600)
    for kind in JOBS:
        push(site.broker, golden(site.broker, kind))
    until(lambda: states(site.engine) == {"r1": "settled", "r2": "refunded"}, TIMEOUT_S, "both applied")
    assert wallet(site.engine) == WEALTH - 80
    ledger = Ledger(site.engine)
    assert ledger.get("r2").reason == "upstream_error"
    assert ledger.reconcile() == []


@servers
@pytest.mark.parametrize("kind", list(JOBS))
def test_golden_messages_say_what_our_own_publisher_says(broker: Broker, kind: str) -> None:
    written, ours = json.loads(golden(broker, kind).read_text()), sent(broker, JOBS[kind])
    assert spoken(written) == spoken(ours)
    for part in ("headers", "properties"):
        assert written[part].keys() <= ours[part].keys()
        same = written[part].keys() - OF_ONE_MESSAGE
        assert {name: ours[part][name] for name in same} == {name: written[part][name] for name in same}
    whole = written.keys() - {"body", "headers", "properties"}
    assert {name: ours[name] for name in whole} == {name: written[name] for name in whole}


def test_every_golden_message_is_shown_in_the_page() -> None:
    page = (ROOT / "docs" / "wire.md").read_text()
    names = sorted(file.name for file in GOLDEN.iterdir())
    assert names == sorted(f"{prefix}-{kind}.json" for prefix in PREFIX.values() for kind in JOBS)
    assert [name for name in names if f"examples/wire/{name}" not in page] == []


def test_an_intent_written_as_the_page_says_is_applied_by_the_sweep(engine: Engine) -> None:
    (statement,) = re.findall(r"```sql\n(.+?)```", (ROOT / "docs" / "wire.md").read_text(), re.DOTALL)
    given(engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    clock = Clock()
    ledger = Ledger(engine, clock=clock)
    ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100, model_name="gpt-4o")
    values = {"request_id": "r1", "actual": 80, "reason": None, "sent_ms": 1000 * START}
    with engine.begin() as connection:
        for actual, changed in ((80, 1), (90, 0)):
            assert connection.execute(text(statement), {**values, "actual": actual}).rowcount == changed
    clock.at = 60
    ledger.apply_intents()
    assert states(engine) == {"r1": "settled"}
    assert wallet(engine) == WEALTH - 80
