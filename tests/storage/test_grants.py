"""The scripts of grants: under them sessions live their whole life, and what a role has no business with is refused."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import ColumnElement, Engine, literal, make_url, select
from sqlalchemy.exc import DBAPIError

from relay_billing import (
    BillingError,
    Ledger,
    Outcome,
    Policy,
    PreConsume,
    RefundJob,
    SettleJob,
    UpdateDataError,
    migrations,
)
from relay_billing.domain.api_keys import Scope
from relay_billing.domain.ownership import Accounts
from relay_billing.flows import (
    api_keys,
    dead_letters,
    deliveries,
    dry_runs,
    key_checks,
    token_balance,
    user_balance,
)
from relay_billing.flows.dead_letters import Filter
from relay_billing.schema import billing_sessions, billing_shadow_refusals, billing_webhooks
from relay_billing.store.drivers import engine_of
from relay_billing.store.mysql_failures import number_of
from relay_billing.store.statements import MUTABLE
from tests.fixtures.accounts import START, Clock, given, states, token, used, wallet
from tests.fixtures.databases import empty
from tests.fixtures.new_api import NEW_API, new_api_rows
from tests.fixtures.workers import ROOT

SCRIPTS = {
    name: (ROOT / "deploy" / f"grants{more}.sql").read_text()
    for name, more in (("postgresql", ""), ("mysql", "-mysql"))
}
RUN = os.getpid()
"""Roles belong to the whole server: those of a run have names of their own."""
ROLES = ("billing_relay", "billing_api", "billing_worker")
REFUSED = ("42501", 1044, 1142, 1143, 1227, 1370)
"""PostgreSQL's state, MariaDB's numbers."""
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
    "SELECT tokens.key FROM tokens",
    "UPDATE tokens SET name = 'mine'",
    "UPDATE tokens SET user_id = 2",
    "INSERT INTO users (id, quota) VALUES (7, 1000000)",
    "DELETE FROM users",
    "UPDATE user_subscriptions SET amount_total = 0",
    "UPDATE billing_ledger SET account_id = 2",
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
    "UPDATE billing_api_keys SET revoked_at = NULL",
    "DELETE FROM billing_api_keys",
    "INSERT INTO billing_api_keys (name, sha256, scopes, created_at) VALUES ('mine', 'x', 'hold', 1)",
)
OF_RELAY_ALONE = ("SELECT version_num FROM billing_alembic_version", "SELECT sha256 FROM billing_api_keys")
FORBIDDEN = [
    *(("relay", each) for each in (*OF_RELAY, *OF_RELAY_ALONE, *SCHEMA)),
    *(("api", each) for each in (*OF_RELAY, *SCHEMA)),
    *(("worker", each) for each in SCHEMA),
]


SAID_OTHERWISE = {
    "ALTER TABLE billing_sessions DISABLE TRIGGER ALL": "ALTER TABLE billing_sessions DROP COLUMN intent",
    "DROP TRIGGER billing_relay_moves ON billing_sessions": "DROP TRIGGER billing_relay_moves",
}
"""On MariaDB."""


@dataclass(frozen=True, slots=True)
class Roles:
    """One database, as its owner, a relay, an HTTP door and a worker see it."""

    owner: Engine
    relay: Engine
    api: Engine
    worker: Engine


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, as MySQL's own client takes it apart."""
    delimiter, statement = ";", ""
    for line in script.splitlines():
        if line.startswith("DELIMITER "):
            delimiter = line.removeprefix("DELIMITER ")
        elif not line.startswith("--"):
            statement += f"{line}\n"
            if line.endswith(delimiter):
                yield statement.rstrip().removesuffix(delimiter)
                statement = ""
    if statement.strip():
        yield statement


def _run(engine: Engine, script: str) -> None:
    with engine.begin() as connection:
        # Without parameters, as psql sends it: a per cent sign is one.
        for each in [script] if engine.dialect.name == "postgresql" else _statements(script):
            connection.connection.cursor().execute(each)


def _login(owner: Engine, role: str) -> None:
    if owner.dialect.name == "postgresql":
        _run(owner, f"CREATE ROLE {role}_login_{RUN} LOGIN PASSWORD 'x' IN ROLE {role}_{RUN}")
        return
    _run(owner, f"CREATE USER {role}_login_{RUN} IDENTIFIED BY 'x'")
    _run(owner, f"GRANT {role}_{RUN} TO {role}_login_{RUN}")
    _run(owner, f"SET DEFAULT ROLE {role}_{RUN} FOR {role}_login_{RUN}")


def _clear(owner: Engine) -> None:
    names = [f"{role}{login}_{RUN}" for role in ROLES for login in ("_login", "")]
    for name in ("opens", "moves"):
        on = " ON billing_sessions" if owner.dialect.name == "postgresql" else ""
        _run(owner, f"DROP TRIGGER IF EXISTS billing_relay_{name}{on}")
    for name in names:
        if owner.dialect.name == "postgresql":
            dropped = f"DROP OWNED BY {name}; DROP ROLE {name};"
            _run(owner, f"DO $$ BEGIN IF to_regrole('{name}') IS NOT NULL THEN {dropped} END IF; END $$")
        else:
            _run(owner, f"DROP {'USER' if '_login_' in name else 'ROLE'} IF EXISTS {name}")


def _refusal(error: DBAPIError) -> object:
    """What the database calls its refusal."""
    return number_of(error.orig) or getattr(error.orig, "sqlstate", None)


@pytest.fixture(params=["postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> str:
    """Each server in turn."""
    name: str = request.param
    return name


@pytest.fixture
def roles(database: str, request: pytest.FixtureRequest) -> Iterator[Roles]:
    """A migrated database with the grants, and a login for each role; parameter True: in a relay's own tables."""
    url = empty(database, request)
    owner = engine_of(url)
    if getattr(request, "param", False):
        NEW_API.create_all(owner)
    with owner.begin() as connection:
        migrations.upgrade(connection)
    logins: list[Engine] = []
    try:
        # Twice: it may be run any number of times.
        for _ in range(2):
            _run(owner, re.sub(r"\bbilling_(relay|api|worker)\b", rf"billing_\1_{RUN}", SCRIPTS[owner.dialect.name]))
        for role in ROLES:
            _login(owner, role)
            own = make_url(url).set(username=f"{role}_login_{RUN}", password="x")
            logins.append(engine_of(own.render_as_string(hide_password=False)))
        yield Roles(owner, *logins)
    finally:
        for login in logins:
            login.dispose()
        _clear(owner)
        owner.dispose()


def accounts(owner: Engine) -> None:
    """Two users; the second one has a subscription whose reset is due."""
    daily = {"id": 1, "title": "daily", "quota_reset_period": "daily"}
    bought = {"id": 1, "user_id": 2, "plan_id": 1, "amount_total": 5_000, "amount_used": 4_990, "status": "active"}
    times = {"start_time": START - 2 * DAY_S, "end_time": START + 9 * DAY_S, "last_reset_time": START - 2 * DAY_S}
    given(
        owner,
        user=[{"id": of, "quota": WEALTH} for of in (1, 2)],
        token=[{"id": of, "user_id": of, "remain_quota": WEALTH} for of in (1, 2)],
        plan=[daily],
        subscription=[bought | times | {"next_reset_time": START - DAY_S}],
    )


def test_sessions_live_their_whole_life_under_the_grants(roles: Roles) -> None:
    accounts(roles.owner)
    clock, policy = Clock(), Policy(trust_quota=0, hold_ttl=60, intent_grace=5)
    relay, worker = Ledger(roles.relay, policy, clock), Ledger(roles.worker, policy, clock)
    for request_id in ("settled", "refunded", "swept", "expired", "grown"):
        relay.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100)
    relay.pre_consume_many(
        [PreConsume(request_id=f"many{number}", user_id=1, quota=9, token_id=1) for number in (1, 2)]
    )
    held = relay.pre_consume(request_id="bought", user_id=2, token_id=2, quota=100, preference="subscription_first")
    assert held.subscription_id == 1
    assert relay.reserve("grown", 250).pre_consumed_quota == 250
    relay.intend([SettleJob("settled", 60), RefundJob("refunded"), SettleJob("swept", 70), SettleJob("bought", 30)])
    done = worker.apply([SettleJob("settled", 60), RefundJob("refunded"), SettleJob("bought", 30)])
    assert done == ["applied", "applied", "applied"]
    # What relays do again to a closed session changes nothing, and is no error.
    relay.intend([RefundJob("settled")])
    assert relay.reserve("settled", 500).state == "settled"
    assert relay.pre_consume(request_id="settled", user_id=1, token_id=1, quota=100).state == "settled"
    assert relay.get("settled").actual_quota == 60
    clock.at = 61
    assert worker.apply_intents() == 1
    assert worker.expire_holds() == 4
    relay.intend([SettleJob("expired", 40)])
    assert worker.apply([SettleJob("expired", 40)]) == ["late"]
    assert worker.apply([SettleJob("refunded", 5)]) == ["conflict"]
    assert states(roles.owner)["grown"] == "expired"
    assert (wallet(roles.owner), token(roles.owner), used(roles.owner)) == (WEALTH - 170, WEALTH - 170, 30)
    assert worker.reconcile() == []


def test_a_hold_that_crosses_a_threshold_is_told_of_under_the_grants(roles: Roles) -> None:
    accounts(roles.owner)
    policy = Policy(trust_quota=0, announce=True, wallet_low_quota=WEALTH - 1)
    relay = Ledger(roles.relay, policy, Clock())
    relay.pre_consume(request_id="told", user_id=1, token_id=1, quota=100, preference="wallet_only")
    with roles.owner.connect() as connection:
        assert connection.execute(select(billing_webhooks.c.event)).scalars().all() == ["wallet.low"]


def test_a_door_does_what_relays_do_and_looks_up_keys_under_the_grants(roles: Roles) -> None:
    accounts(roles.owner)
    Ledger(roles.worker).run(api_keys.create, "one", (Scope.HOLD,), "f" * 64, None)
    door = Ledger(roles.api, Policy(trust_quota=0))
    assert door.read(key_checks.any_made)
    found = door.read(key_checks.look_up, "f" * 64)
    assert found is not None
    assert found[1].name == "one"
    with roles.api.connect() as connection:
        assert migrations.current(connection) == migrations.head()
    request = PreConsume(request_id="r1", user_id=1, quota=100, token_id=1)
    assert door.read(dry_runs.would_hold, request).pre_consumed_quota == 100
    assert door.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100).pre_consumed_quota == 100
    assert door.reserve("r1", 250).pre_consumed_quota == 250
    user, key = door.read(user_balance.of_user, 2), door.read(token_balance.of_token, 1)
    assert user is not None
    assert key is not None
    assert (user.subscriptions[0].plan_title, key.open_holds.quota) == ("daily", 250)
    door.intend([SettleJob("r1", 60)])


def test_workers_keep_house_under_the_grants(roles: Roles) -> None:
    accounts(roles.owner)
    clock = Clock()
    ledger = Ledger(roles.worker, Policy(trust_quota=0), clock)
    with roles.worker.connect() as connection:
        assert migrations.current(connection) == migrations.head()
    assert ledger.reset_subscriptions() == 1
    assert ledger.run(deliveries.count, "one") == 1
    ledger.run(deliveries.forget, "one")
    for number in range(2):
        Ledger(roles.relay, Policy(trust_quota=0), clock).pre_consume(
            request_id=f"old{number}", user_id=1, token_id=1, quota=100
        )
        ledger.apply([SettleJob(f"old{number}", 900_000_000 if number else 80)])
    letters = ledger.read(dead_letters.find, Filter())
    assert [each.reason for each in letters] == ["implausible_amount"]
    assert ledger.run(dead_letters.write_off, letters[0].id, "not ours").resolved
    clock.at = 100 * DAY_S
    assert ledger.purge(DAY_S) == 2
    assert ledger.run_in_batches(dead_letters.purge, 2**50) == 1
    assert ledger.reconcile() == []


@pytest.fixture
def lived(roles: Roles) -> Roles:
    """A session in each stage."""
    accounts(roles.owner)
    ledger = Ledger(roles.relay, Policy(trust_quota=0))
    for request_id in ("settled", "intended", "open"):
        ledger.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100)
    ledger.intend([SettleJob("intended", 500)])
    Ledger(roles.worker, Policy(trust_quota=0)).apply([SettleJob("settled", 60)])
    return roles


def test_what_a_role_has_no_business_with_is_refused(lived: Roles) -> None:
    def rows() -> list[object]:
        tables = ("billing_sessions", "billing_ledger", "users", "tokens", "user_subscriptions")
        with lived.owner.connect() as connection:
            return [connection.exec_driver_sql(f"SELECT * FROM {each} ORDER BY 1").all() for each in tables]

    before = rows()
    for role, statement in FORBIDDEN:
        engine: Engine = getattr(lived, role)
        said = statement if engine.dialect.name == "postgresql" else SAID_OTHERWISE.get(statement, statement)
        with engine.connect() as connection, pytest.raises(DBAPIError) as refused:
            connection.exec_driver_sql(said)
        assert _refusal(refused.value) in REFUSED, (role, statement, refused.value.orig)
    made = select(*(each for each in billing_sessions.c)).where(billing_sessions.c.request_id == "settled")
    forged = billing_sessions.insert().from_select(
        [each.name for each in billing_sessions.c], made.with_only_columns(*_forged())
    )
    with lived.relay.connect() as connection, pytest.raises(DBAPIError) as refused:
        connection.execute(forged)
    assert _refusal(refused.value) in REFUSED
    assert rows() == before


def _forged() -> list[ColumnElement[object]]:
    return [literal("forged") if each.name == "request_id" else each for each in billing_sessions.c]


def test_a_relay_in_shadow_keeps_what_it_refuses(roles: Roles) -> None:
    accounts(roles.owner)
    shadow = Ledger(roles.relay, Policy(trust_quota=0, shadow=True))
    asked = [PreConsume(name, 1, 1, quota) for name, quota in (("held", 9), ("refused", 10 * WEALTH))]
    held, refused = shadow.pre_consume_many(asked)
    assert (isinstance(held, BillingError), isinstance(refused, BillingError)) == (False, True)
    with roles.owner.connect() as connection:
        assert connection.execute(select(billing_shadow_refusals.c.request_id)).scalars().all() == ["refused"]


def test_the_grants_name_every_column_that_a_transition_writes() -> None:
    for script in SCRIPTS.values():
        granted = re.search(r"GRANT SELECT, INSERT, UPDATE \((.*?)\) ON billing_sessions", script, re.DOTALL)
        assert granted is not None
        assert [each.strip() for each in granted[1].split(",")] == list(MUTABLE)


@pytest.mark.parametrize("roles", [True], indirect=True, ids=["a relay's tables"])
def test_under_the_grants_sessions_live_in_a_relays_own_tables_too(roles: Roles) -> None:
    new_api_rows(
        roles.owner,
        user=[{"id": 1, "quota": 1_000}, {"id": 2, "quota": 1_000, "status": 2}],
        token=[{"id": of, "user_id": of, "remain_quota": 1_000} for of in (1, 2)],
        plan=[{"id": 1}],
        subscription=[{"id": 1, "user_id": 1, "plan_id": 1, "amount_total": 900, "end_time": START + DAY_S}],
    )
    policy = Policy(trust_quota=0, accounts=Accounts.NEW_API)
    relay, worker = (Ledger(each, policy, Clock()) for each in (roles.relay, roles.worker))
    asked = [PreConsume(f"r{of}", of, of, 100, "m", "subscription_first") for of in (1, 2)]
    answers = [relay.pre_consume_many([each])[0] for each in (*asked, PreConsume("w", 1, 1, 100, "m", "wallet_only"))]
    assert [getattr(each, "code", "held") for each in answers] == ["held", "query_data_error", "held"]
    assert worker.apply([SettleJob("r1", 60), RefundJob("w")]) == [Outcome.APPLIED] * 2
    _run(roles.owner, "UPDATE users SET quota = quota + 50")
    assert [each.difference for each in worker.adopt(list(worker.findings()))] == [50]
    # A column that a role may not read is no guard that is missing, but an error.
    _run(roles.owner, f"REVOKE SELECT (status) ON users FROM billing_relay_{RUN}")
    with pytest.raises(UpdateDataError, match=r"permission denied|command denied"):
        Ledger(roles.relay, policy, Clock()).pre_consume(request_id="x", user_id=2, token_id=2, quota=1)
