"""What goes to sqlite3 past SQLAlchemy means the same, is set up once, and leaves the connection as it was."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Select, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import NullPool

from relay_billing import Ledger, Policy, PreConsume, SettleJob
from relay_billing.schema import billing_sessions, metadata, users
from relay_billing.store import direct, statements
from relay_billing.store.commands import Command
from relay_billing.store.drivers import engine_of, reply_of
from relay_billing.store.sqlite import SQLITE
from relay_billing.store.sqlite_transactions import tell
from tests.fixtures.accounts import START, Clock, given

POLICY = Policy(trust_quota=500)
FOREVER = 4_000_000_000
LOADS = [name for name, each in vars(statements).items() if name.isupper() and isinstance(each, Select)]
GIVEN = {"ids": ["r1", "r2", "r3", 1, 2], "now": START, "shadow": False}
"""Parameters of all loads: request ids and users, which are looked for in columns of their own kind."""

MAKERS: dict[str, Callable[[str], Engine]] = {"ours": engine_of, "somebody else's": create_engine}


@pytest.fixture(params=MAKERS)
def lite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """SQLite with all tables and accounts of two users, by an engine of ours and by another one."""
    made = MAKERS[request.param](f"sqlite:///{tmp_path / 'billing.db'}")
    metadata.create_all(made)
    given(
        made,
        user=[{"id": 1, "quota": 900}, {"id": 2, "quota": 50}],
        token=[
            {"id": 1, "user_id": 1, "remain_quota": 9, "unlimited_quota": True},
            {"id": 2, "user_id": 2, "remain_quota": 90},
        ],
        plan=[{"id": 1, "title": "monthly"}],
        subscription=[{"id": 1, "user_id": 2, "plan_id": 1, "amount_total": 100, "end_time": FOREVER}],
    )
    yield made
    made.dispose()


def held(engine: Engine) -> Ledger:
    """A trusted session, one that is held, one of the subscription that is to be settled."""
    ledger = Ledger(engine, POLICY, Clock())
    asked = (PreConsume("r1", 1, 1, 10), PreConsume("r2", 2, 2, 10, preference="wallet_only"))
    ledger.pre_consume_many([*asked, PreConsume("r3", 2, 2, 10, preference="subscription_first")])
    ledger.intend([SettleJob("r3", 4, "done")])
    return ledger


@pytest.mark.parametrize("name", LOADS)
def test_a_load_brings_the_same_values_as_by_sqlalchemy(lite: Engine, name: str) -> None:
    held(lite)
    statement: Select[Any] = getattr(statements, name)
    needed = {each: value for each, value in GIVEN.items() if each in statement.compile().params}
    with lite.connect() as connection:
        usual = reply_of(connection.execute(statement, needed)).rows
        (reply,) = direct.carried_out(connection, [Command.of_constant(statement, **needed)])
    assert usual, "nothing was compared"
    assert reply.rows == usual
    typed = [[type(value) for value in row.values()] for row in reply.rows]
    assert typed == [[type(value) for value in row.values()] for row in usual]


def told(engine: Engine) -> list[str]:
    """All that SQLite is told on connections that are made from now on."""
    words: list[str] = []
    event.listen(engine, "connect", lambda connection, _: connection.set_trace_callback(words.append))
    engine.dispose()
    return words


def test_a_connection_is_set_up_once(lite: Engine) -> None:
    words = told(lite)
    ledger = held(lite)
    first = [each for each in words if each.startswith("PRAGMA")]
    assert [each for each in SQLITE.opening if each not in first] == []
    words.clear()
    ledger.get("r1")
    ledger.reserve("r2", 20)
    assert "BEGIN IMMEDIATE" in words
    # A PRAGMA of no matter would do harm too: after it SQLite prepares all statements anew.
    assert [each for each in words if each.startswith("PRAGMA")] == []


def test_transactions_of_others_on_the_same_connection_begin_and_roll_back_as_before(lite: Engine) -> None:
    held(lite)
    with lite.connect() as connection:
        connection.execute(users.update().values(quota=0))
        connection.rollback()
    with lite.connect() as connection:
        assert connection.execute(text("SELECT sum(quota) FROM users")).scalar_one() > 0


@pytest.fixture
def impatient(lite: Engine) -> Iterator[Connection]:
    """A connection that waits for nobody, while another one writes."""
    made = create_engine(lite.url, poolclass=NullPool)
    with made.connect() as writer, lite.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


def test_a_busy_database_is_an_error_of_sqlalchemy_that_is_tried_again(impatient: Connection) -> None:
    with pytest.raises(OperationalError) as busy:
        tell(impatient, "BEGIN IMMEDIATE")
    assert SQLITE.transient(busy.value)
    rows = [{"of": 1, "delta": 1, "used": 0, "requests": 0}]
    with pytest.raises(OperationalError) as refused:
        direct.carried_out(impatient, [SQLITE.many(SQLITE.accounts.move_wallet, rows)])
    assert SQLITE.transient(refused.value)
    assert "UPDATE users" in str(refused.value.statement)


def test_a_row_that_is_there_already_is_an_error_of_sqlalchemy_that_names_it(lite: Engine) -> None:
    held(lite)
    names = statements.OPENING_COLUMNS
    with lite.connect() as connection:
        row = connection.execute(billing_sessions.select()).mappings().first()
        assert row is not None
        with pytest.raises(IntegrityError) as refused:
            direct.carried_out(connection, [SQLITE.many(statements.OPEN_SESSION, [{n: row[n] for n in names}])])
    assert isinstance(refused.value, DBAPIError)
    assert not SQLITE.transient(refused.value)
