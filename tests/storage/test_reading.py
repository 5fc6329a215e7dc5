"""Whoever reads never waits for whoever writes."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from relay_billing import AsyncBillingClient, Ledger, Policy
from relay_billing.flows import accounts, dead_letters, history, sessions, tokens, webhooks
from relay_billing.flows.dead_letters import Filter
from relay_billing.flows.sessions import SessionFilter
from tests.fixtures.accounts import Clock, given
from worker.monitoring import snapshot

PATIENCE_S = 1.0
"""Far below any time-out: a writer is waited for, or it is not."""

READERS: dict[str, Callable[[Ledger], object]] = {
    "get": lambda ledger: ledger.get("r1"),
    "dead letters": lambda ledger: ledger.read(dead_letters.find, Filter()),
    "webhooks": lambda ledger: ledger.read(webhooks.find),
    "overview": lambda ledger: ledger.overview(),
    "reconcile of a user": lambda ledger: ledger.reconcile(user_id=1),
    "story": lambda ledger: ledger.read(history.story, "r1"),
    "sessions": lambda ledger: ledger.read(sessions.find, SessionFilter()),
    "user": lambda ledger: ledger.read(accounts.account, 1),
    "token": lambda ledger: ledger.read(tokens.token, 1),
}


@pytest.fixture
def written(engine: Engine) -> Iterator[Engine]:
    """A database in which somebody writes, and has not committed yet, for as long as the test lasts."""
    given(engine, user=[{"id": 1, "quota": 900}], token=[{"id": 1, "user_id": 1, "remain_quota": 900}])
    Ledger(engine, Policy(trust_quota=0), Clock()).pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
    writer = create_engine(engine.url, poolclass=NullPool)
    with writer.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        for table in ("users", "tokens", "billing_sessions", "billing_ledger"):
            connection.execute(text(f"DELETE FROM {table}"))
        yield engine
        connection.rollback()


@pytest.mark.parametrize("what", READERS)
def test_a_read_takes_no_notice_of_a_writer(written: Engine, what: str) -> None:
    ledger = Ledger(written, Policy(trust_quota=0), Clock())
    began = time.monotonic()
    READERS[what](ledger)
    assert time.monotonic() - began < PATIENCE_S
    assert ledger.get("r1").pre_consumed_quota == 100


def test_an_asynchronous_read_takes_no_notice_of_a_writer(written: Engine, tmp_path: Path) -> None:
    async def read() -> int:
        url = written.url.render_as_string(hide_password=False)
        client = AsyncBillingClient(url, f"filesystem://{tmp_path}/broker")
        try:
            return (await client.get("r1")).pre_consumed_quota
        finally:
            await client.close()

    began = time.monotonic()
    assert asyncio.run(read()) == 100
    assert time.monotonic() - began < PATIENCE_S


def test_health_and_status_take_no_notice_of_a_writer(written: Engine, tmp_path: Path) -> None:
    began = time.monotonic()
    seen = snapshot.read(written.url.render_as_string(hide_password=False), f"filesystem://{tmp_path}/broker")
    assert time.monotonic() - began < PATIENCE_S
    assert seen.overview is not None
    assert seen.overview.holds.count == 1
