"""Balances change without touching an index (docs/decisions/0007): the server itself counts how often."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, insert, text
from sqlalchemy.pool import NullPool

from relay_billing import Ledger, Policy, PreConsume, SettleJob, migrations
from relay_billing.schema import billing_sessions, tokens, user_subscriptions, users
from relay_billing.store.drivers import engine_of
from tests.faults.postgres import Postgres

USERS, ROUNDS = 2_000, 6
BATCH = 500
SHARE = 0.8
"""With batches of neighbours, the worst case, it is a little over 0.9; with full pages a third."""
CHANGED = """SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
    WHERE relname IN ('users', 'tokens', 'user_subscriptions', 'billing_sessions')"""


@pytest.fixture
def server() -> Iterator[Postgres]:
    """One of its own: while any other transaction on the server is open, old versions of rows stay where they are."""
    with tempfile.TemporaryDirectory(prefix="billing-in-place-") as folder:
        # Its server runs as another user.
        Path(folder).chmod(0o755)
        made = Postgres(Path(folder))
        made.create()
        made.start()
        yield made
        made.stop("immediate")


@pytest.fixture
def engine(server: Postgres) -> Iterator[Engine]:
    """Accounts in tables as the migrations make them."""
    engine = engine_of(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")
    with engine.begin() as connection:
        migrations.upgrade(connection)
        for table in ("users", "tokens", "user_subscriptions", "billing_sessions"):
            # An autovacuum that looks at a table keeps old versions of its rows alive.
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
        everybody = range(1, USERS + 1)
        connection.execute(insert(users), [{"id": of, "quota": 10**9} for of in everybody])
        keys = [{"id": of, "user_id": of, "remain_quota": 10**9} for of in everybody]
        connection.execute(insert(tokens), keys)
        bought = [{"user_id": of, "amount_total": 10**9, "end_time": 4 * 10**9} for of in everybody]
        connection.execute(insert(user_subscriptions), bought)
    yield engine
    engine.dispose()


def _changed(engine: Engine) -> dict[str, tuple[int, int]]:
    """By table: rows updated, and those of them that no index had to be told of."""
    # A backend hands its counts in when it ends, at the latest.
    engine.dispose()
    reader = create_engine(engine.url, poolclass=NullPool)
    with reader.connect() as connection:
        return {name: (updated, in_place) for name, updated, in_place in connection.execute(text(CHANGED))}


@pytest.mark.parametrize("source", ["wallet", "subscription"])
def test_that_holds_and_settles_leave_the_indexes_of_accounts_alone(engine: Engine, source: str) -> None:
    """Pages keep room for the next version of a row, and no index names a balance."""
    ledger = Ledger(engine, Policy(trust_quota=0))
    for number in range(ROUNDS):
        for first in range(1, USERS + 1, BATCH):
            asked = [
                PreConsume(f"{number}-{of}", of, of, 10, "m", f"{source}_only") for of in range(first, first + BATCH)
            ]
            ledger.pre_consume_many(asked)
            ledger.apply([SettleJob(each.request_id, 7) for each in asked])
    changed = _changed(engine)
    tables = {"wallet": ("users", "tokens"), "subscription": ("user_subscriptions", "tokens")}[source]
    for table in tables:
        updated, in_place = changed[table]
        assert updated == 2 * ROUNDS * USERS
        assert in_place >= SHARE * updated, f"{table}: {in_place} of {updated}"
    # Once a settle: there is no second visit to the row.
    assert changed["billing_sessions"][0] == ROUNDS * USERS


def test_that_a_closed_session_stays_in_two_indexes_alone() -> None:
    """Its key, and the BRIN of its times; all others hold what is open, and a settle enters nothing there."""
    whole = {
        str(index.name) for index in billing_sessions.indexes if index.dialect_options["postgresql"]["where"] is None
    }
    assert whole == {"ix_billing_sessions_times"}
