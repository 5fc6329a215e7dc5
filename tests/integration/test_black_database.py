"""A database that takes every connection, acknowledges every packet and answers none: everybody comes back in time."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine, make_url
from typer.testing import CliRunner

from relay_billing import AsyncBillingClient, BillingClient, BillingUnavailable, Ledger, Policy, SettleJob, migrations
from relay_billing.domain.choices import Durability
from relay_billing.flows import dead_letters, history, sweeps
from relay_billing.flows.dead_letters import Filter
from relay_billing.store.drivers import engine_of
from relay_billing.store.waits import CALL_TIMEOUT_S, GRACE_S, REFUSAL_S, SHORTEST_CONNECT_S
from tests.faults.proxy import Proxy
from tests.fixtures.accounts import given, states, wallet
from tests.fixtures.brokers import Broker, on
from tests.fixtures.databases import empty
from tests.fixtures.waiting import until
from tests.fixtures.wire import Foreign
from tests.fixtures.workers import Site, Spawn, environment
from worker.cli import app

WEALTH = 100_000
ASK: dict[str, Any] = {"user_id": 1, "token_id": 1, "quota": 100}
POLICY = Policy(trust_quota=0, publish_timeout=1)
STATEMENT_S, CALL_S = 0.5, 3.0
LOOP_S = 1.0
"""The worker's loop answers within this time, whatever it waits for."""
SLACK_S = 2.0
"""What a loaded machine may take on top."""
IN_TIME_S = CALL_S + SHORTEST_CONNECT_S + SLACK_S
"""A call that begins while nothing answers is over by then, whatever it waits for."""


@dataclass
class Black:
    """A migrated database behind a proxy."""

    engine: Engine
    """Past the proxy."""
    proxy: Proxy
    url: str
    """Through the proxy, with small waits."""


@pytest.fixture(params=["postgresql", "mariadb"])
def black(request: pytest.FixtureRequest) -> Iterator[Black]:
    direct = empty(request.param, request)
    engine = engine_of(direct)
    with engine.begin() as connection:
        migrations.upgrade(connection)
    given(engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    proxy = Proxy(make_url(direct).port or 5432)
    url = make_url(direct).set(host="127.0.0.1", port=proxy.port)
    short = {"statement_timeout": str(STATEMENT_S), "call_timeout": str(CALL_S), "connect_timeout": "2"}
    yield Black(engine, proxy, url.update_query_dict(short).render_as_string(hide_password=False))
    proxy.close()
    engine.dispose()


@pytest.fixture
def client(black: Black, tmp_path: Path) -> Iterator[BillingClient]:
    made = BillingClient(black.url, f"filesystem://{tmp_path / 'broker'}", POLICY)
    yield made
    made.close()


def unavailable(call: Callable[[], object]) -> float:
    """How long the call took to say that the database is away."""
    began = time.monotonic()
    with pytest.raises(BillingUnavailable):
        call()
    return time.monotonic() - began


@pytest.mark.parametrize("known", [True, False], ids=["a connection of the pool", "a new connection"])
def test_hold_settle_reserve_and_get_come_back(black: Black, client: BillingClient, known: bool) -> None:
    if known:
        client.pre_consume(request_id="r1", **ASK)
    for call in (
        lambda: client.pre_consume(request_id="r2", **ASK),
        lambda: client.settle("r1", 60),
        lambda: client.reserve("r1", 200),
        lambda: client.get("r1"),
    ):
        black.proxy.black = True
        assert unavailable(call) < IN_TIME_S
        black.proxy.black = False
        until(lambda: answers(client), REFUSAL_S + SLACK_S, "answering again")
    assert client.pre_consume(request_id="r3", **ASK).pre_consumed_quota == 100
    assert Ledger(black.engine, POLICY).reconcile() == []


def answers(client: BillingClient) -> bool:
    try:
        client.pre_consume(request_id="r0", **ASK)
    except BillingUnavailable:
        return False
    return True


def test_a_crowd_comes_back_as_soon_as_one_does(black: Black, client: BillingClient) -> None:
    client.pre_consume(request_id="r1", **ASK)
    black.proxy.black = True
    # Many batches' worth: one after the other each would wait for its own time.
    with ThreadPoolExecutor(300) as threads:
        waits = [
            threads.submit(unavailable, partial(client.pre_consume, request_id=f"c{number}", **ASK))
            for number in range(300)
        ]
        assert max(wait.result() for wait in waits) < 2 * IN_TIME_S


def test_a_client_closes_while_nothing_answers(black: Black, tmp_path: Path) -> None:
    client = BillingClient(black.url, f"filesystem://{tmp_path / 'broker'}", POLICY)
    client.pre_consume(request_id="r1", **ASK)
    black.proxy.black = True
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < SLACK_S


def test_an_async_client_comes_back_and_closes(black: Black, tmp_path: Path) -> None:
    async def relay() -> list[float]:
        client = AsyncBillingClient(black.url, f"filesystem://{tmp_path / 'broker'}", POLICY)
        held = await client.pre_consume(request_id="r1", **ASK)
        black.proxy.black = True
        took = []
        for call in (
            lambda: client.pre_consume(request_id="r2", **ASK),
            lambda: held.settle(60),
            lambda: held.reserve(200),
        ):
            began = time.monotonic()
            with pytest.raises(BillingUnavailable):
                await call()
            took.append(time.monotonic() - began)
            await asyncio.sleep(REFUSAL_S)
        began = time.monotonic()
        await client.close()
        return [*took, time.monotonic() - began]

    assert max(asyncio.run(relay())) < IN_TIME_S


def test_an_async_client_closes_while_a_call_is_under_way(
    black: Black, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_billing.aio.CLOSE_TIMEOUT_S", 0.3)
    patient = black.url.replace(f"statement_timeout={STATEMENT_S}", "statement_timeout=5")

    async def relay() -> float:
        client = AsyncBillingClient(patient, f"filesystem://{tmp_path / 'broker'}", POLICY)
        await client.pre_consume(request_id="r1", **ASK)
        black.proxy.black = True
        call = asyncio.create_task(client.pre_consume(request_id="r2", **ASK))
        await asyncio.sleep(0)
        began = time.monotonic()
        await client.close()
        took = time.monotonic() - began
        with pytest.raises(BillingUnavailable):
            await call
        return took

    assert asyncio.run(relay()) < SLACK_S


@pytest.mark.parametrize("use", ["sweep", "expire", "turn", "purge", "overview", "story", "apply", "reconcile"])
def test_what_workers_and_operators_do_comes_back(black: Black, use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("relay_billing.ledger", "relay_billing.store.drivers"):
        monkeypatch.setattr(f"{module}.LONG_STATEMENT_TIMEOUT_S", STATEMENT_S)
    engine = engine_of(black.url)
    ledger = Ledger(engine, POLICY)
    ledger.pre_consume(request_id="r1", **ASK)
    calls: dict[str, Callable[[], object]] = {
        "sweep": lambda: ledger.sweep(sweeps.apply_intents),
        "expire": ledger.sweep_holds,
        "turn": ledger.reset_subscriptions,
        "purge": lambda: ledger.purge(1),
        "overview": ledger.overview,
        "story": lambda: Ledger(engine).read(history.story, "r1"),
        "apply": lambda: ledger.apply([SettleJob("r1", 60)]),
        "reconcile": ledger.reconcile,
    }
    black.proxy.black = True
    assert unavailable(calls[use]) < IN_TIME_S
    began = time.monotonic()
    engine.dispose()
    assert time.monotonic() - began < SLACK_S


@pytest.mark.parametrize("command", [("sessions", "list"), ("reconcile",), ("migrate",), ("status",)], ids=" ".join)
def test_a_command_comes_back(black: Black, tmp_path: Path, command: tuple[str, ...]) -> None:
    black.proxy.black = True
    env = environment(black.url, f"filesystem://{tmp_path / 'broker'}", tmp_path)
    began = time.monotonic()
    done = CliRunner().invoke(app, command, env=env)
    assert time.monotonic() - began < IN_TIME_S
    assert done.exit_code == 2
    assert any(words in done.output.replace("\n", " ") for words in ("timeout expired", "timed out"))


def test_the_time_of_a_call_is_that_of_a_relays_patience() -> None:
    assert CALL_TIMEOUT_S <= 15
    assert GRACE_S < CALL_TIMEOUT_S


@on("redis")
def test_a_worker_waits_for_the_database_to_answer_and_then_goes_on(
    broker: Broker, black: Black, tmp_path: Path, spawn: Spawn
) -> None:
    site = Site(black.engine, black.url, broker, tmp_path, spawn)
    client = BillingClient(
        str(black.engine.url.render_as_string(False)), broker.url, Policy(trust_quota=0, durability=Durability.BROKER)
    )
    worker = site.worker(visibility_timeout=15, sweep_interval=3600)
    for number in range(4):
        client.pre_consume(request_id=f"r{number}", **ASK)
    client.settle("r0", 60)
    until(lambda: states(black.engine)["r0"] == "settled", 40, "the first one settled")
    black.proxy.black = True
    client.settle("r1", 60)
    Foreign("billing.nonsense").post(broker)
    inspected = Celery(set_as_current=False, broker=broker.url).control.inspect(timeout=LOOP_S)
    for _ in range(5):
        assert inspected.ping(), "the loop stands still while a message is kept"
    until(lambda: "the database is away" in worker.output, IN_TIME_S + 10, "told that the database is away")
    until(lambda: "can't be kept" in worker.output, IN_TIME_S + 10, "told that a message can't be kept")
    client.settle("r2", 60)
    black.proxy.black = False
    until(lambda: states(black.engine)["r1"] == states(black.engine)["r2"] == "settled", 60, "all settled")
    until(lambda: bool(Ledger(black.engine).read(dead_letters.find, Filter())), 40, "the nonsense buried")
    client.close()
    assert wallet(black.engine) == WEALTH - 60 * 3 - 100
