"""Statements that are sent past psycopg's cursors: what they carry, what is prepared, and what their errors leave."""

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, PoolProxiedConnection

from relay_billing.store.drivers import engine_of
from relay_billing.store.libpq import Prepared, Statement

ONE = Statement("SELECT %(number)s + 1", {"number": 1})
PREPARED = "SELECT name, statement FROM pg_prepared_statements WHERE name LIKE 'billing%%' ORDER BY name"
BIG = 4_000_000
"""Characters that no socket takes at once."""
Value = int | str | bool | None


@pytest.fixture
def pooled(postgresql: Engine) -> Iterator[PoolProxiedConnection]:
    connection = postgresql.raw_connection()
    yield connection
    connection.close()


def sent(pooled: PoolProxiedConnection, *statements: Statement) -> list[list[tuple[Any, ...]]]:
    raw: Any = pooled.driver_connection
    return [result.rows for result in raw.wait(Prepared.on(pooled).exchange(statements))]


def prepared(pooled: PoolProxiedConnection) -> list[str]:
    return [text for _, text in sent(pooled, Statement(PREPARED, {}))[0] if text != PREPARED.replace("%%", "%")]


TEXTS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)
NUMBERS = st.integers(-(2**63), 2**63 - 1)


# Each example uses the connection for one statement, and leaves nothing behind.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=TEXTS | st.none(),
    number=NUMBERS | st.none(),
    flag=st.booleans() | st.none(),
    texts=st.lists(TEXTS | st.none()),
)
def test_what_is_sent_comes_back(
    pooled: PoolProxiedConnection, text: str | None, number: int | None, flag: bool | None, texts: list[str | None]
) -> None:
    asked = "SELECT %(text)s::text, %(number)s::bigint, %(flag)s::boolean, %(texts)s::text[]"
    parameters = {"text": text, "number": number, "flag": flag, "texts": texts}
    assert sent(pooled, Statement(asked, parameters)) == [[(text, number, flag, texts)]]


def test_a_placeholder_that_stands_twice_is_one_parameter_and_a_percent_sign_is_one(
    pooled: PoolProxiedConnection,
) -> None:
    asked = "SELECT %(word)s::text || '%%' || %(word)s::text"
    assert sent(pooled, Statement(asked, {"word": "100"})) == [[("100%100",)]]


def test_more_is_sent_and_received_than_a_socket_takes_at_once(pooled: PoolProxiedConnection) -> None:
    long = Statement("SELECT %(text)s::text", {"text": "x" * BIG})
    assert sent(pooled, *[long] * 3) == [[("x" * BIG,)]] * 3


@pytest.mark.parametrize("value", ["a\0b", ["a", "b\0"]], ids=["text", "list"])
def test_a_nul_is_refused_before_anything_is_sent(pooled: PoolProxiedConnection, value: str | list[str]) -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        sent(pooled, ONE, Statement("SELECT %(value)s", {"value": value}))
    assert sent(pooled, ONE) == [[(2,)]]


def test_a_database_of_another_encoding_is_written_and_read_in_it(postgresql_url: str) -> None:
    engine = engine_of(f"{postgresql_url}?client_encoding=latin1")
    pooled = engine.raw_connection()
    word = Statement("SELECT %(word)s::text, length(%(word)s::text)", {"word": "é"})
    assert sent(pooled, word) == [[("é", 1)]]
    with pytest.raises(UnicodeEncodeError):
        sent(pooled, Statement(word.text, {"word": "€"}))
    pooled.close()
    engine.dispose()


def test_a_statement_is_prepared_when_it_has_been_sent_as_often_as_psycopg_waits_for(
    pooled: PoolProxiedConnection,
) -> None:
    raw: Any = pooled.driver_connection
    for _ in range(raw.prepare_threshold):
        assert sent(pooled, ONE) == [[(2,)]]
    assert prepared(pooled) == []
    for _ in range(2):
        assert sent(pooled, ONE) == [[(2,)]]
    assert prepared(pooled) == ["SELECT $1 + 1"]


def test_behind_a_pooler_nothing_is_prepared(pooled: PoolProxiedConnection) -> None:
    raw: Any = pooled.driver_connection
    raw.prepare_threshold = None
    for _ in range(20):
        assert sent(pooled, ONE) == [[(2,)]]
    assert prepared(pooled) == []


@pytest.fixture
def ready(pooled: PoolProxiedConnection) -> PoolProxiedConnection:
    """A connection that prepares each statement at once."""
    raw: Any = pooled.driver_connection
    raw.prepare_threshold = 0
    return pooled


def test_of_a_list_each_statement_is_prepared_once(ready: PoolProxiedConnection) -> None:
    two = Statement("SELECT %(number)s + 2", {"number": 1})
    assert sent(ready, ONE, two, ONE, two) == [[(2,)], [(3,)]] * 2
    assert sorted(prepared(ready)) == ["SELECT $1 + 1", "SELECT $1 + 2"]


def test_a_statement_is_prepared_for_each_kind_of_value_that_it_is_sent(ready: PoolProxiedConnection) -> None:
    asked = "SELECT %(value)s::text"
    values: Sequence[Value] = (1, "a", True, None, 2**62)
    assert [sent(ready, Statement(asked, {"value": each}))[0][0][0] for each in values] == [
        "1",
        "a",
        "true",
        None,
        str(2**62),
    ]
    assert prepared(ready) == ["SELECT $1::text"] * 3


FAILING = Statement("SELECT 1 / %(by)s", {"by": 0})
MISTYPED = Statement("SELEC 1", {})


@pytest.mark.parametrize(
    ("failing", "kind"),
    [(FAILING, psycopg.errors.DivisionByZero), (MISTYPED, psycopg.errors.SyntaxError)],
    ids=["when it is carried out", "when it is prepared"],
)
@pytest.mark.parametrize("threshold", [0, None], ids=["prepared", "not prepared"])
def test_the_first_error_ends_the_list_and_leaves_the_connection_to_be_used(
    pooled: PoolProxiedConnection, failing: Statement, kind: type[psycopg.Error], threshold: int | None
) -> None:
    raw: Any = pooled.driver_connection
    raw.prepare_threshold = threshold
    begin = Statement("BEGIN", {})
    later = Statement("SELECT 'not reached'", {})
    with pytest.raises(kind):
        sent(pooled, begin, ONE, failing, later)
    raw.rollback()
    assert sent(pooled, ONE, later) == [[(2,)], [("not reached",)]]


def test_a_commit_that_fails_after_its_statement_has_answered_is_an_error(pooled: PoolProxiedConnection) -> None:
    deferred = "CREATE TEMP TABLE kept (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    twice = Statement("INSERT INTO kept VALUES (1), (1)", {})
    sent(pooled, Statement(deferred, {}))
    for _ in range(10):
        with pytest.raises(psycopg.errors.UniqueViolation):
            sent(pooled, twice)
    assert sent(pooled, Statement("SELECT count(*) FROM kept", {})) == [[(0,)]]


def test_a_server_that_ends_the_connection_is_asked_why(pooled: PoolProxiedConnection) -> None:
    with pytest.raises(psycopg.errors.AdminShutdown):
        sent(pooled, ONE, Statement("SELECT pg_terminate_backend(pg_backend_pid())", {}), ONE)
    assert pooled.driver_connection is not None
    assert pooled.driver_connection.closed


def test_whoever_interrupts_an_exchange_leaves_no_answer_to_the_next_statement(pooled: PoolProxiedConnection) -> None:
    raw: Any = pooled.driver_connection
    exchange = Prepared.on(pooled).exchange([Statement("SELECT pg_sleep(1)", {})])
    next(exchange)
    exchange.close()
    assert raw.closed


def test_what_a_connection_has_prepared_is_forgotten_with_it(postgresql: Engine) -> None:
    def known() -> Prepared:
        pooled = postgresql.raw_connection()
        try:
            return Prepared.on(pooled)
        finally:
            pooled.close()

    first = known()
    assert known() is first
    postgresql.dispose()
    assert known() is not first
