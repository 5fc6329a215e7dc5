"""The relay's side, without a worker: what is safe when a call returns, and how long it may take."""

import asyncio
import base64
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from relay_billing import (
    AsyncBillingClient,
    BillingClient,
    BillingUnavailable,
    InvalidRequest,
    Ledger,
    Policy,
    RefundJob,
    SettleJob,
    UnknownSession,
    UpdateDataError,
)
from relay_billing.domain.choices import Durability
from relay_billing.schema import billing_sessions, metadata
from relay_billing.store.drivers import engine_of
from tests.fixtures.accounts import given, wallet
from tests.fixtures.brokers import free_port
from tests.fixtures.waiting import until
from tests.fixtures.workers import ROOT

WEALTH = 100_000
ASK: dict[str, Any] = {"user_id": 1, "token_id": 1, "quota": 100}
POLICY = Policy(trust_quota=0, intent_grace=0, publish_timeout=1)


@pytest.fixture
def database(empty_url: str) -> Iterator[Engine]:
    """A database with one user of some wealth."""
    engine = engine_of(empty_url)
    metadata.create_all(engine)
    given(engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    yield engine
    engine.dispose()


@pytest.fixture
def client(database: Engine, empty_url: str, tmp_path: Path) -> Iterator[BillingClient]:
    made = BillingClient(empty_url, f"filesystem://{tmp_path / 'broker'}", POLICY)
    yield made
    made.close()


def intents(engine: Engine) -> dict[str, tuple[str | None, int | None, str | None]]:
    """Intent, amount and reason on every session's row."""
    c = billing_sessions.c
    with engine.connect() as connection:
        rows = connection.execute(select(c.request_id, c.intent, c.intent_quota, c.intent_reason))
        return {row[0]: tuple(row)[1:] for row in rows}


def test_a_settle_and_a_refund_are_on_their_rows_when_the_call_returns(client: BillingClient, database: Engine) -> None:
    client.pre_consume(request_id="r1", **ASK).settle(60, reason="done")
    client.pre_consume(request_id="r2", **ASK).refund("upstream_error")
    client.pre_consume(request_id="r3", **ASK)
    client.settle("r3", 5)
    expected = {
        "r1": ("settle", 60, "done"),
        "r2": ("refund", None, "upstream_error"),
        "r3": ("settle", 5, None),
    }
    assert intents(database) == expected


def test_a_session_left_without_settle_is_refunded(client: BillingClient, database: Engine) -> None:
    with client.session(request_id="r1", **ASK) as session:
        assert session.needs_refund
    assert intents(database) == {"r1": ("refund", None, "not_settled")}


def test_a_session_left_by_an_exception_is_refunded_and_the_exception_goes_on(
    client: BillingClient, database: Engine
) -> None:
    with pytest.raises(ZeroDivisionError), client.session(request_id="r1", **ASK):
        raise ZeroDivisionError
    assert intents(database) == {"r1": ("refund", None, "ZeroDivisionError")}


def test_a_settled_session_is_not_refunded_whatever_comes_after(client: BillingClient, database: Engine) -> None:
    def relay() -> None:
        with client.session(request_id="r1", **ASK) as session:
            session.settle(70)
            raise KeyError

    with pytest.raises(KeyError):
        relay()
    assert intents(database) == {"r1": ("settle", 70, None)}


@contextmanager
def away(engine: Engine) -> Iterator[None]:
    """The table of sessions is out of reach while the block runs."""
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE billing_sessions RENAME TO hidden_sessions")
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden_sessions RENAME TO billing_sessions")


def test_a_settle_that_failed_is_not_followed_by_a_refund(client: BillingClient, database: Engine) -> None:
    with pytest.raises(UpdateDataError), client.session(request_id="r1", **ASK) as session, away(database):
        session.settle(70)
    assert intents(database) == {"r1": (None, None, None)}


def test_a_session_can_be_raised_and_read(client: BillingClient, database: Engine) -> None:
    session = client.pre_consume(request_id="r1", **ASK).reserve(250)
    assert session.pre_consumed_quota == client.get("r1").pre_consumed_quota == 250
    assert wallet(database) == WEALTH - 250
    with pytest.raises(UnknownSession):
        client.get("nobody")


@pytest.mark.parametrize(
    ("url", "broker", "field"),
    [
        ("mssql://x/y", "redis://localhost", "database_url"),
        ("sqlite://", "kafka://localhost", "broker_url"),
        ("sqlite://", "", "broker_url"),
    ],
)
def test_an_address_that_can_not_be_used_is_refused_by_its_field(url: str, broker: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        BillingClient(url, broker)
    assert refused.value.field == field


@pytest.mark.parametrize("wrong", [{"quota": -1}, {"quota": 1.5}, {"request_id": ""}, {"currency": "EUR"}])
def test_a_wrong_hold_is_refused_before_anything_moved(
    client: BillingClient, database: Engine, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        client.pre_consume(**{"request_id": "r1", **ASK, **wrong})
    assert (intents(database), wallet(database)) == ({}, WEALTH)


def test_a_wrong_amount_is_refused_before_anything_is_written(client: BillingClient, database: Engine) -> None:
    session = client.pre_consume(request_id="r1", **ASK)
    with pytest.raises(InvalidRequest):
        session.settle(-1)
    with pytest.raises(InvalidRequest):
        client.settle("r1", True)
    assert intents(database) == {"r1": (None, None, None)}


def test_a_database_that_is_away_says_what_is_not_safe_yet(tmp_path: Path) -> None:
    client = BillingClient(f"postgresql://x@127.0.0.1:{free_port()}/x", f"filesystem://{tmp_path}", POLICY)
    with pytest.raises(BillingUnavailable) as refused:
        client.settle("r1", 70, "done")
    assert refused.value.jobs == (SettleJob("r1", 70, "done"),)
    with pytest.raises(BillingUnavailable) as refused:
        client.refund("r2")
    assert refused.value.jobs == (RefundJob("r2"),)
    client.close()


def test_the_async_client_says_it_too(tmp_path: Path) -> None:
    async def relay() -> None:
        client = AsyncBillingClient(f"postgresql://x@127.0.0.1:{free_port()}/x", f"filesystem://{tmp_path}", POLICY)
        with pytest.raises(BillingUnavailable) as refused:
            await client.settle("r1", 70)
        assert refused.value.jobs == (SettleJob("r1", 70),)
        await client.close()

    asyncio.run(relay())


def test_16_threads_share_one_client(client: BillingClient, database: Engine) -> None:
    def work(number: int) -> None:
        with client.session(request_id=f"r{number}", **ASK) as session:
            if number % 2:
                session.settle(40)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(160)))
    ledger = Ledger(database, POLICY)
    ledger.apply_intents()
    assert wallet(database) == WEALTH - 80 * 40
    assert ledger.reconcile() == []


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("durability", list(Durability))
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
@pytest.mark.parametrize("how", ["refused", "black-holed"])
def test_a_broker_that_is_away_never_holds_the_relay_up(
    database: Engine, empty_url: str, black_hole: str, scheme: str, how: str, durability: Durability
) -> None:
    address = black_hole if how == "black-holed" else f"127.0.0.1:{free_port()}"
    policy = Policy(trust_quota=0, durability=durability, publish_timeout=1)
    client = BillingClient(empty_url, f"{scheme}://{address}//", policy)
    client.pre_consume(request_id="r1", **ASK)
    began = time.monotonic()
    client.settle("r1", 60)
    took = time.monotonic() - began
    assert took < (0.5 if durability is Durability.DATABASE else policy.publish_timeout + 0.5)
    assert intents(database) == {"r1": ("settle", 60, None)}
    client.close()


FORK = """
import os, sys
from relay_billing import BillingClient, Policy
client = BillingClient(sys.argv[1], sys.argv[2], Policy(trust_quota=0))
ask = dict(user_id=1, token_id=1, quota=100)
client.pre_consume(request_id="before", **ask).settle(10)
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        client.pre_consume(request_id=f"child{number}", **ask).settle(10)
        client.close()
        os._exit(0)
    children.append(pid)
client.pre_consume(request_id="after", **ask).settle(10)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
client.pre_consume(request_id="last", **ask).settle(10)
client.close()
"""


def posted(broker: Path) -> list[str]:
    """The request ids of all jobs on the filesystem broker."""
    bodies = (json.loads(each.read_text())["body"] for each in (broker / "messages").iterdir())
    return [job["request_id"] for body in bodies for job in json.loads(base64.b64decode(body))[1]["jobs"]]


def test_a_client_works_on_in_parent_and_children_after_a_fork(
    database: Engine, empty_url: str, tmp_path: Path
) -> None:
    broker = tmp_path / "broker"
    command = (sys.executable, "-W", "error", "-c", FORK, empty_url, f"filesystem://{broker}")
    # The client needs nothing of the environment.
    done = subprocess.run(command, cwd=ROOT, env={}, timeout=60, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    names = {"before", "child0", "child1", "child2", "after", "last"}
    assert set(intents(database)) == names
    assert sorted(posted(broker)) == sorted(names)


def test_a_closed_client_leaves_no_thread_behind(database: Engine, empty_url: str, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    client = BillingClient(empty_url, f"filesystem://{tmp_path / 'b'}", POLICY)
    client.pre_consume(request_id="r1", **ASK).settle(5)
    assert set(threading.enumerate()) > before
    client.close()
    client.close()
    assert set(threading.enumerate()) <= before


@pytest.fixture
def run(database: Engine, empty_url: str, tmp_path: Path) -> Iterator[tuple[AsyncBillingClient, asyncio.Runner]]:
    """An async client and the loop it belongs to."""
    with asyncio.Runner() as runner:
        client = AsyncBillingClient(empty_url, f"filesystem://{tmp_path / 'broker'}", POLICY)
        yield client, runner
        runner.run(client.close())


def test_the_async_client_knows_the_same_words(
    run: tuple[AsyncBillingClient, asyncio.Runner], database: Engine
) -> None:
    client, runner = run

    async def relay() -> None:
        session = await client.pre_consume(request_id="r1", **ASK)
        assert (await session.reserve(150)).pre_consumed_quota == 150
        await session.settle(60, "done")
        assert (await client.get("r1")).intent_quota == 60
        async with client.session(request_id="r2", **ASK):
            pass
        with pytest.raises(ZeroDivisionError):
            async with client.session(request_id="r3", **ASK):
                raise ZeroDivisionError
        await client.pre_consume(request_id="r4", **ASK)
        await client.refund("r4")
        with pytest.raises(UnknownSession):
            await client.get("nobody")
        with pytest.raises(InvalidRequest):
            await client.pre_consume(request_id="", **ASK)

    runner.run(relay())
    expected = {
        "r1": ("settle", 60, "done"),
        "r2": ("refund", None, "not_settled"),
        "r3": ("refund", None, "ZeroDivisionError"),
        "r4": ("refund", None, None),
    }
    assert intents(database) == expected


def test_a_cancelled_request_is_refunded(run: tuple[AsyncBillingClient, asyncio.Runner], database: Engine) -> None:
    client, runner = run

    async def relay() -> None:
        held = asyncio.Event()

        async def request() -> None:
            async with client.session(request_id="r1", **ASK):
                held.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(request())
        await held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    runner.run(relay())
    assert intents(database) == {"r1": ("refund", None, "CancelledError")}


def test_a_settle_whose_caller_is_cancelled_is_safe_all_the_same(
    run: tuple[AsyncBillingClient, asyncio.Runner], database: Engine
) -> None:
    client, runner = run

    async def relay() -> None:
        settling = asyncio.Event()

        async def request() -> None:
            async with client.session(request_id="r1", **ASK) as session:
                settling.set()
                await session.settle(60)

        task = asyncio.create_task(request())
        await settling.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()

    runner.run(relay())
    assert intents(database) == {"r1": ("settle", 60, None)}


def test_a_closed_async_client_leaves_no_thread_behind(database: Engine, empty_url: str, tmp_path: Path) -> None:
    before = set(threading.enumerate())

    async def relay() -> None:
        client = AsyncBillingClient(empty_url, f"filesystem://{tmp_path / 'b'}", POLICY)
        await (await client.pre_consume(request_id="r1", **ASK)).settle(5)
        assert set(threading.enumerate()) > before
        await client.close()

    asyncio.run(relay())
    # aiosqlite says that it is closed a moment before its thread ends.
    until(lambda: set(threading.enumerate()) <= before, 10, "no thread left")
