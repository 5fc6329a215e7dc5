"""What MySQL and MariaDB need that the others don't: sessions set up, rows locked in order, and no others."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest
from pymysql.constants.SERVER_STATUS import SERVER_MORE_RESULTS_EXISTS
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError

from relay_billing import (
    BillingUnavailable,
    InvalidRequest,
    Ledger,
    Outcome,
    Policy,
    PreConsume,
    SettleJob,
    UpdateDataError,
)
from relay_billing.store import mysql_connections
from relay_billing.store.account_statements import account_statements
from relay_billing.store.async_drivers import async_engine_of
from relay_billing.store.commands import Command
from relay_billing.store.drivers import engine_of
from relay_billing.store.mysql import MYSQL
from relay_billing.store.mysql_direct import carried_out
from tests.fixtures.accounts import given, states, token, wallet
from tests.fixtures.authority import authority
from tests.fixtures.five_users import WEALTH, hold, of_five

SETTINGS = "SELECT @@tx_isolation, @@sql_mode, @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@max_statement_time"
SET = ("READ-COMMITTED", 10, 10, 10.0)


@pytest.fixture
def ledger(mariadb: Engine) -> Ledger:
    """Five users with a token each."""
    return of_five(mariadb)


def test_each_session_is_read_committed_strict_and_bounded(mariadb: Engine, mariadb_url: str) -> None:
    with mariadb.connect() as connection:
        isolation, modes, *waits = connection.execute(text(SETTINGS)).one()
    assert (isolation, *waits) == SET
    assert "STRICT_ALL_TABLES" in modes

    async def settings() -> tuple[object, ...]:
        engine = async_engine_of(mariadb_url.replace("mysql+pymysql", "mariadb"))
        async with engine.connect() as connection:
            found = (await connection.execute(text(SETTINGS))).one()
        await engine.dispose()
        return tuple(found)

    isolation, modes, *waits = asyncio.run(settings())
    assert (isolation, *waits) == SET
    assert "STRICT_ALL_TABLES" in str(modes)


def test_an_engine_of_the_callers_own_is_set_up_too(mariadb: Engine, mariadb_url: str) -> None:
    given(mariadb, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    own = create_engine(mariadb_url.replace("mysql+pymysql", "mariadb+pymysql"), pool_size=1, max_overflow=0)
    found: list[str] = []

    def look(connection: Connection, *_: object) -> None:
        found.append(str(connection.exec_driver_sql("SELECT @@tx_isolation").scalar()))

    event.listen(own, "commit", look)
    hold(Ledger(own, Policy(trust_quota=0)), "r1")
    own.dispose()
    assert found == ["READ-COMMITTED"]


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("8.0.36", False),
        ("9.1.0-commercial", False),
        ("5.7.44-log", True),
        ("10.6.4-MariaDB", False),
        ("5.5.5-10.11.6-MariaDB-0+deb12u1", False),
        ("11.8.2-MariaDB-ubu2404", False),
        ("5.5.5-10.5.28-MariaDB", True),
        ("nothing known", True),
    ],
)
def test_a_server_that_is_too_old_is_refused_by_its_version(said: str, refused: bool) -> None:
    if refused:
        with pytest.raises(InvalidRequest, match="or later is needed"):
            mysql_connections._check_version(said)
    else:
        mysql_connections._check_version(said)


def test_an_old_server_is_refused_at_the_first_connection(mariadb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mysql_connections.OLDEST, "MariaDB", (99, 0))
    with pytest.raises(InvalidRequest, match=r"MariaDB .*; 99\.0 or later is needed"):
        Ledger(engine_of(mariadb_url)).get("r1")


def test_a_server_without_tls_gets_no_password_where_tls_was_asked_for(mariadb_url: str, tmp_path: Path) -> None:
    url = make_url(mariadb_url).update_query_dict({"ssl_ca": str(authority(tmp_path / "tls").ca), "call_timeout": "1"})
    wanted = url.render_as_string(hide_password=False)
    with pytest.raises(BillingUnavailable, match="SSL is required"):
        Ledger(engine_of(wanted)).get("r1")

    async def connect() -> None:
        engine = async_engine_of(wanted)
        try:
            async with engine.connect():
                pass
        finally:
            await engine.dispose()

    with pytest.raises(OperationalError, match="SSL is required"):
        asyncio.run(connect())


def test_locks_and_updates_of_some_rows_wait_for_no_others(ledger: Ledger, mariadb: Engine) -> None:
    """Tables as small as these would be read, and so locked, from end to end."""
    for of in (1, 2, 3):
        hold(ledger, f"r{of}", of)
    with mariadb.begin() as other:
        other.execute(text("SELECT id FROM users WHERE id = 5 FOR UPDATE"))
        other.execute(text("SELECT id FROM tokens WHERE id = 5 FOR UPDATE"))
        other.execute(text("SELECT request_id FROM billing_sessions WHERE request_id = 'r3' FOR UPDATE"))
        with ThreadPoolExecutor(1) as pool:
            jobs = [SettleJob(f"r{of}", 40) for of in (1, 2)]
            assert pool.submit(ledger.apply, jobs).result(5) == [Outcome.APPLIED] * 2
            more = [PreConsume(f"m{of}", of, of, 10) for of in (1, 2, 3, 4)]
            pool.submit(ledger.pre_consume_many, more).result(5)
            pool.submit(ledger.intend, [SettleJob(f"m{of}", 5) for of in (1, 2)]).result(5)
    assert [wallet(mariadb, of) for of in (1, 5)] == [WEALTH - 50, WEALTH]


def test_accounts_of_sessions_are_locked_in_the_order_of_their_ids(ledger: Ledger, mariadb: Engine) -> None:
    """Sessions `a` to `e` are those of users 5 to 1: who locks by session meets the highest id first."""
    for number, name in enumerate("abcde"):
        hold(ledger, name, 5 - number)
    lock_users = Command.of_constant(account_statements().locking_of[0], ids=list("abcde"))
    with mariadb.begin() as first, mariadb.begin() as second:
        first.execute(text("SELECT id FROM users WHERE id = 3 FOR UPDATE"))
        second.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        with pytest.raises(OperationalError, match="Lock wait timeout"):
            carried_out(second, [lock_users])
        # It waited for 3: what it had then is 1 and 2, and neither 4 nor 5.
        with mariadb.begin() as third:
            rest = third.execute(text("SELECT id FROM users ORDER BY id FOR UPDATE SKIP LOCKED")).scalars().all()
        second.rollback()
    assert rest in ([4, 5], [1, 2, 4, 5])


@pytest.mark.parametrize("number", [1213, 1205, 1020, 1969, 1317, 2013, 1290, 1927, 1158])
@pytest.mark.parametrize("at", ["statement", "commit"])
def test_what_the_server_aborts_is_tried_again(
    ledger: Ledger, mariadb: Engine, monkeypatch: pytest.MonkeyPatch, number: int, at: str
) -> None:
    """At a statement: nothing of its list was done. At the commit: it was, and the answer is lost."""
    hold(ledger, "r1")
    left = [2]
    real: Callable[..., int] = mysql_connections._Connection.query

    def failing(self: mysql_connections._Connection, sql: str, unbuffered: bool = False) -> int:
        aborted = left[0] and ("UPDATE users" if at == "statement" else "; COMMIT") in sql
        if aborted:
            left[0] -= 1
        if at == "commit" or not aborted:
            count = real(self, sql, unbuffered)
            while aborted and self.server_status & SERVER_MORE_RESULTS_EXISTS:
                self.next_result()
        if aborted:
            raise pymysql.err.OperationalError(number, "as the server says it")
        return count

    monkeypatch.setattr(mysql_connections._Connection, "query", failing)
    assert ledger.reserve("r1", 200).pre_consumed_quota == 200
    # After a commit whose answer is lost, the next attempt finds the hold raised, and has nothing to commit.
    assert left == [0 if at == "statement" else 1]
    assert (wallet(mariadb), token(mariadb)) == (WEALTH - 200, WEALTH - 200)
    assert ledger.reconcile() == []


def test_connections_that_the_server_cut_are_made_anew(ledger: Ledger, mariadb: Engine) -> None:
    hold(ledger, "r1")
    mine = "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
    with create_engine(mariadb.url).begin() as other:
        for (of,) in other.execute(text(mine)).all():
            other.exec_driver_sql(f"KILL {of}")
    assert ledger.apply([SettleJob("r1", 30)]) == [Outcome.APPLIED]
    assert wallet(mariadb) == WEALTH - 30


def test_an_amount_that_no_column_holds_is_an_error_and_moves_nothing(ledger: Ledger, mariadb: Engine) -> None:
    with mariadb.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET used_quota = 9223372036854775800 WHERE id = 1")
    hold(ledger, "r1")
    with pytest.raises(UpdateDataError, match="the database refused it"):
        ledger.apply([SettleJob("r1", 90)])
    assert states(mariadb) == {"r1": "preconsumed"}
    assert wallet(mariadb) == WEALTH - 100


def test_ids_are_told_apart_by_each_character(ledger: Ledger, mariadb: Engine) -> None:
    names = ("req-a", "req-A", "req-a ", "req-á", "req-a\x00")
    for name in names[:4]:
        hold(ledger, name)
    assert set(states(mariadb)) == set(names[:4])
    assert ledger.apply([SettleJob("req-A", 7)]) == [Outcome.APPLIED]
    assert [state for _, state in sorted(states(mariadb).items())].count("settled") == 1


def test_a_set_is_read_first_and_its_rows_are_looked_up_by_key(mariadb: Engine) -> None:
    rows = [{"of": of, "delta": 1, "used": 0, "requests": 0} for of in (1, 2)]
    command = MYSQL.many(MYSQL.accounts.move_wallet, rows)
    with mariadb.connect() as connection:
        plan = connection.execute(text(f"EXPLAIN {command.statement}"), command.parameters).mappings().all()
    assert [(each["table"], each["type"], each["key"]) for each in plan] == [
        ("given", "ALL", None),
        ("users", "eq_ref", "PRIMARY"),
    ]


def test_an_engine_that_commits_each_statement_is_refused(ledger: Ledger, mariadb: Engine, mariadb_url: str) -> None:
    made = create_engine(mariadb_url, isolation_level="AUTOCOMMIT")
    with pytest.raises(InvalidRequest, match="AUTOCOMMIT"):
        hold(Ledger(made), "r1")
    assert wallet(mariadb) == WEALTH
    made.dispose()
