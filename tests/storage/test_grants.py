"""`deploy/grants.sql`: under it sessions live their whole life, and what a role has no business with is refused."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, select, text
from sqlalchemy.exc import DBAPIError

from relay_billing import BillingClient, Ledger, Policy, RefundJob, SettleJob, deadletters, migrations
from relay_billing.schema import billing_dead_letters
from relay_billing.store.drivers import engine_of
from tests.fixtures.books import START, Clock, given, states, token, used, wallet
from tests.fixtures.databases import empty
from tests.fixtures.workers import ROOT

GRANTS = (ROOT / "deploy" / "grants.sql").read_text()
RUN = os.getpid()
"""Roles belong to the whole server: those of a run have names of their own."""
ROLES = ("billing_relay", "billing_worker")
REFUSED = "42501"
WEALTH = 1_000_000
DAY_S = 86_400

CLOSED = "UPDATE billing_sessions SET {} WHERE request_id = 'settled'"
INTENDED = "UPDATE billing_sessions SET {} WHERE request_id = 'intended'"
OPEN = "UPDATE billing_sessions SET {} WHERE request_id = 'open'"
SCHEMA = (
    "CREATE TABLE mine (id int)",
    "DROP TABLE billing_ledger",
    "TRUNCATE billing_ledger",
    "TRUNCATE billing_sessions",
    "ALTER TABLE billing_sessions ADD COLUMN more int",
    "ALTER TABLE billing_sessions DISABLE TRIGGER ALL",
    "DROP TRIGGER billing_relay_moves ON billing_sessions",
    "CREATE INDEX mine ON billing_sessions (user_id)",
    "UPDATE billing_alembic_version SET version_num = '0001'",
    "SELECT key FROM tokens",
    "UPDATE tokens SET key = 'sk-mine'",
    "UPDATE tokens SET user_id = 2",
    "INSERT INTO users (id, quota) VALUES (7, 1000000)",
    "DELETE FROM users",
    "UPDATE user_subscriptions SET amount_total = 0",
    "UPDATE billing_ledger SET account_id = 2",
    "UPDATE billing_sessions SET user_id = 2 WHERE false",
)
OF_RELAY = (
    CLOSED.format("actual_quota = 1"),
    CLOSED.format("state = 'preconsumed'"),
    CLOSED.format("state = 'refunded'"),
    CLOSED.format("reason = 'changed'"),
    CLOSED.format("intent = 'refund'"),
    OPEN.format("state = 'settled', actual_quota = 1"),
    OPEN.format("state = 'refunded'"),
    OPEN.format("actual_quota = 1"),
    OPEN.format("closed_at = 1"),
    OPEN.format("user_id = 2"),
    INTENDED.format("intent_quota = 1"),
    INTENDED.format("intent = NULL"),
    "DELETE FROM billing_sessions",
    "UPDATE billing_ledger SET amount = 0",
    "DELETE FROM billing_ledger",
    "SELECT amount FROM billing_ledger",
    "SELECT job FROM billing_dead_letters",
    "DELETE FROM billing_dead_letters",
    "DELETE FROM billing_deliveries",
    "SELECT version_num FROM billing_alembic_version",
)
FORBIDDEN = [
    *(("relay", each) for each in (*OF_RELAY, *SCHEMA)),
    *(("worker", each) for each in SCHEMA if each != "UPDATE billing_sessions SET user_id = 2 WHERE false"),
]


@dataclass(frozen=True, slots=True)
class Roles:
    """One database, as its owner, a relay and a worker see it."""

    owner: Engine
    relay: Engine
    worker: Engine


@pytest.fixture
def roles(request: pytest.FixtureRequest) -> Iterator[Roles]:
    """A migrated database with the grants, and a login for each role."""
    url = empty("postgresql", request)
    owner = engine_of(url)
    with owner.begin() as connection:
        migrations.upgrade(connection)
    script = GRANTS
    for role in ROLES:
        script = script.replace(role, f"{role}_{RUN}") if role == "billing_worker" else script
    script = script.replace("billing_relay TO", "billing_relay TO").replace("'billing_relay'", f"'billing_relay_{RUN}'")
    engines = []
    try:
        _run(owner, script)
        for role in ROLES:
            login = f"{role}_login_{RUN}"
            _run(owner, f"CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE {role}_{RUN}")
            engines.append(engine_of(make_url(url).set(username=login, password="x").render_as_string(False)))
        yield Roles(owner, *engines)
    finally:
        for engine in engines:
            engine.dispose()
        for role in ROLES:
            for each in (f"{role}_login_{RUN}", f"{role}_{RUN}"):
                _run(owner, f"DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{each}') THEN "
                    f"DROP OWNED BY {each}; DROP ROLE {each}; END IF; END $$")
        owner.dispose()
