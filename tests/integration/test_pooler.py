"""PgBouncer in transaction mode between us and PostgreSQL: every transaction may have another server connection."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner

from relay_billing import AsyncBillingClient, BillingClient, Ledger, Policy, SettleJob, migrations
from relay_billing.domain.choices import Durability
from relay_billing.store.allowance import Allowance
from relay_billing.store.commands import Command
from relay_billing.store.drivers import engine_of
from relay_billing.store.pipeline import piped
from relay_billing.store.statements import LOCK_SESSION_KEYS
from tests.fixtures.accounts import given, states, wallet
from tests.fixtures.brokers import Broker, on
from tests.fixtures.databases import empty
from tests.fixtures.poolers import SERVER_CONNECTIONS, Pooler
from tests.fixtures.waiting import until
from tests.fixtures.workers import Site, Spawn, environment
from worker.cli import app
from worker.monitoring import snapshot

USERS, WEALTH, CALLS, THREADS = 8, 1_000_000, 480, 8
POLICY = Policy(trust_quota=0, intent_grace=0)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """An empty database through the pooler."""
    return empty("pgbouncer", request)


@pytest.fixture
def migrated(url: str) -> Iterator[Engine]:
    engine = engine_of(url)
    with engine.begin() as connection:
        migrations.upgrade(connection)
    ids = range(1, USERS + 1)
    given(
        engine,
        user=[{"id": of, "quota": WEALTH} for of in ids],
        token=[{"id": of, "user_id": of, "remain_quota": WEALTH} for of in ids],
    )
    yield engine
    engine.dispose()


def ask(number: int) -> dict[str, Any]:
    user = number % USERS + 1
    return {"request_id": f"r{number}", "user_id": user, "token_id": user, "quota": 100}


def test_every_call_of_many_threads_passes(migrated: Engine, url: str, tmp_path: Path) -> None:
    client = BillingClient(url, f"filesystem://{tmp_path / 'broker'}", POLICY)

    def relay(number: int) -> None:
        client.pre_consume(**ask(number))
        client.reserve(f"r{number}", 150)
        client.settle(f"r{number}", 60)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(relay, range(CALLS)))
    client.close()
    ledger = Ledger(migrated, POLICY)
    assert ledger.apply_intents() == CALLS
    assert Counter(states(migrated).values()) == {"settled": CALLS}
    assert ledger.reconcile() == []
    assert wallet(migrated) == WEALTH - 60 * (CALLS // USERS)


def test_every_call_of_many_tasks_passes(migrated: Engine, url: str, tmp_path: Path) -> None:
    async def relay() -> None:
        client = AsyncBillingClient(url, f"filesystem://{tmp_path / 'broker'}", POLICY)

        async def one(number: int) -> None:
            held = await client.pre_consume(**ask(number))
            await held.reserve(150)
            await held.refund()

        await asyncio.gather(*(one(number) for number in range(CALLS)))
        await client.close()

    asyncio.run(relay())
    ledger = Ledger(migrated, POLICY)
    assert ledger.apply_intents() == CALLS
    assert ledger.reconcile() == []
    assert {wallet(migrated, of) for of in range(1, USERS + 1)} == {WEALTH}


def settings_behind(url: str) -> set[tuple[str, str]]:
    """What the server connections of the pooler have as their sessions' settings, all of them asked."""
    seen = {}
    plain = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    asked = "SELECT pg_backend_pid(), current_setting('statement_timeout'), current_setting('plan_cache_mode')"
    with ExitStack() as open_ones:
        # Transactions at the same time: each has a server connection of its own.
        for _ in range(SERVER_CONNECTIONS):
            pid, timeout, plans = open_ones.enter_context(plain.connect()).execute(text(asked)).one()
            seen[pid] = (timeout, plans)
    assert len(seen) == SERVER_CONNECTIONS
    return set(seen.values())


def test_no_setting_stays_with_a_server_connection(migrated: Engine, url: str, tmp_path: Path) -> None:
    before = settings_behind(url)
    ledger = Ledger(migrated, POLICY)
    for number in range(20):
        ledger.pre_consume(**ask(number))
        ledger.apply([SettleJob(f"r{number}", 60)])
    assert ledger.purge(1) == 0
    assert ledger.reconcile() == []
    assert snapshot.read(url, f"filesystem://{tmp_path / 'broker'}").database_problem is None
    env = environment(url, f"filesystem://{tmp_path / 'broker'}", tmp_path)
    for command in (["migrate"], ["reconcile"], ["sessions", "list"], ["status"]):
        assert CliRunner().invoke(app, command, env=env).exit_code == 0
    assert settings_behind(url) == before


def test_the_server_knows_how_long_a_statement_may_take(migrated: Engine, url: str, postgresql_url: str) -> None:
    asked = "?statement_timeout=7"
    for address, pooled in ((url, True), (postgresql_url, False)):
        engine = engine_of(address + asked)
        with engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, Allowance)
            assert raw.pooled is pooled
            # Behind a pooler with the transaction alone, which its pipeline begins.
            piped(connection, [Command.of_constant(LOCK_SESSION_KEYS, ids=["r1"])], first=True)
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "7s"
            assert connection.exec_driver_sql("SHOW plan_cache_mode").scalar_one() == "force_generic_plan"
        engine.dispose()


@on("redis")
def test_a_worker_settles_what_a_client_holds(
    broker: Broker, migrated: Engine, url: str, pooler: Pooler, tmp_path: Path, spawn: Spawn
) -> None:
    assert str(pooler.port) in url
    client = BillingClient(url, broker.url, Policy(trust_quota=0, durability=Durability.BROKER))
    Site(migrated, url, broker, tmp_path, spawn).worker(sweep_interval=1)
    for number in range(100):
        client.pre_consume(**ask(number))
        client.settle(f"r{number}", 60)
    until(lambda: Counter(states(migrated).values()) == {"settled": 100}, 40, "all settled")
    client.close()
    assert Ledger(migrated, POLICY).reconcile() == []
