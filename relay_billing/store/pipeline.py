"""psycopg's pipeline: sends a list of constant statements in one round trip, bypassing SQLAlchemy's execution.

The first list of a transaction brings its BEGIN, the last one its COMMIT. Since nobody can look at the replies before
that COMMIT, the server itself checks how many rows a statement has changed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Executable, Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.compiler import SQLCompiler

from relay_billing.store.allowance import KEEP_PLANS
from relay_billing.store.commands import Alone, Command, Reply
from relay_billing.store.last import Last
from relay_billing.store.raised import driver_of, left_with, raised

if TYPE_CHECKING:
    # An extra that SQLite does not need.
    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection

_COMPILER_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]
CACHED = 128
"""Compiled statements kept; there are a few dozen constant ones."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A constant statement as it is sent to the driver."""

    text: str
    inside: Mapping[str, Any]
    """Parameters that the statement itself holds."""
    names: tuple[str, ...] | None
    """Names of its result's columns; None: it returns no rows."""


_COUNTED = (
    "WITH moved AS ({} RETURNING 1) SELECT CAST(CASE WHEN count(*) = %(touches)s::bigint THEN '1' ELSE "
    "'a row moved under its lock: ' || %(touches)s::text || ' were to change, ' || count(*)::text || ' did' END "
    "AS integer) FROM moved"
)
"""Fails, with these words in its error, unless the statement changes so many rows."""


@lru_cache(maxsize=CACHED)
def _sent(statement: Executable, counted: bool = False) -> Sent:
    compiled = statement.compile(dialect=_COMPILER_DIALECT)  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)
    inside = {name: value for name, value in compiled.params.items() if value is not None}
    names = tuple(statement.selected_columns.keys()) if isinstance(statement, Select) else None
    return Sent(_COUNTED.format(compiled) if counted else str(compiled), inside, names)


def _sent_of(command: Command) -> Sent:
    return _sent(command.statement, command.touches is not None)


_listed = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def _array(values: list[object]) -> str:
    """A list of integers, strings, booleans and Nones as PostgreSQL's array literal; psycopg takes ten times as long.

    JSON differs in its brackets, and escapes a newline as backslash and `n`, which PostgreSQL would read as the letter.
    """
    listed = _listed(values)
    if "\\" in listed:
        listed = "[" + ",".join(map(_element, values)) + "]"
    return "{" + listed[1:-1] + "}"


def _element(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _listed(value)


def _parameters(command: Command) -> Mapping[str, Any]:
    """The parameters as the driver takes them. The statement's text has the type of each."""
    parameters = command.parameters
    assert isinstance(parameters, Mapping)
    given = {name: _array(value) if isinstance(value, list) else value for name, value in parameters.items()}
    if command.touches is not None:
        given["touches"] = command.touches
    return {**_sent_of(command).inside, **given}


def _reply(command: Command, rows: Sequence[tuple[Any, ...]], count: int) -> Reply:
    if command.touches is not None:
        return Reply((), command.touches)
    names = _sent_of(command).names or ()
    return Reply([dict(zip(names, row, strict=True)) for row in rows], count)


def pipelined(commands: Sequence[Command]) -> bool:
    """Whether these commands may be sent together."""
    return all(each.constant for each in commands)


def _opening(raw: object) -> str:
    """The first statement of a pipelined transaction; the default for engines that `engine_of` has not made."""
    opening: str = getattr(raw, "opening", KEEP_PLANS)
    return opening


def _statements(commands: Sequence[Command]) -> str:
    return "; ".join(_sent_of(each).text for each in commands)


def piped(connection: Connection, commands: Sequence[Command], *, first: bool) -> list[Reply]:
    """Run the commands in one round trip; return replies in their order.

    `first`: they begin their transaction. A `Last` ends it: once its replies are there, it is committed.
    """
    driver = driver_of(connection)
    raw: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    try:
        with raw.pipeline():
            if first:
                raw.execute("BEGIN")
                raw.execute(_opening(raw))
            cursors = [raw.execute(_sent_of(each).text, _parameters(each)) for each in commands]
            if isinstance(commands, Last):
                raw.execute("COMMIT")
        # The columns are known beforehand: asking a cursor costs as much as sending a statement.
        return [
            _reply(command, cursor.fetchall() if _sent_of(command).names else (), cursor.rowcount)
            for command, cursor in zip(commands, cursors, strict=True)
        ]
    except driver.Error as error:
        made = raised(connection, error, _statements(commands))
        if made.connection_invalidated:
            connection.invalidate(error)
        raise made from error


async def apiped(connection: "AsyncConnection", commands: Sequence[Command], *, first: bool) -> list[Reply]:
    """As `piped`, on an async connection."""
    known = connection.sync_connection
    assert known is not None
    driver = driver_of(known)
    raw: psycopg.AsyncConnection[Any] = known.connection.driver_connection  # type: ignore[assignment]
    try:
        async with raw.pipeline():
            if first:
                await raw.execute("BEGIN")
                await raw.execute(_opening(raw))
            cursors = [await raw.execute(_sent_of(each).text, _parameters(each)) for each in commands]
            if isinstance(commands, Last):
                await raw.execute("COMMIT")
        return [
            _reply(command, await cursor.fetchall() if _sent_of(command).names else (), cursor.rowcount)
            for command, cursor in zip(commands, cursors, strict=True)
        ]
    except driver.Error as error:
        made = raised(known, error, _statements(commands))
        if made.connection_invalidated:
            await connection.invalidate(error)
        raise made from error


def _typed(driver: Any, alone: Alone) -> dict[str, object]:  # noqa: ANN401
    """The parameters, with all integers as 64 bits: a statement is prepared once, not once per integer width."""
    wide = driver.types.numeric.Int8
    return {
        name: wide(value) if type(value) is int else _array(value) if isinstance(value, list) else value
        for name, value in alone.parameters.items()
    }


def _rows(alone: Alone, rows: Sequence[tuple[Any, ...]]) -> Reply:
    return Reply([dict(zip(alone.names, row, strict=True)) for row in rows], len(rows))


def executed_alone(engine: Engine, alone: Alone) -> Reply:
    """Run one auto-committed statement and return its rows. Raises the driver's own errors.

    Uses the pooled connection directly: SQLAlchemy's `Connection` around it would take a tenth of the call.
    """
    pooled = engine.raw_connection()
    driver = engine.dialect.loaded_dbapi
    raw: psycopg.Connection[Any] = pooled.driver_connection  # type: ignore[assignment]
    try:
        raw.autocommit = True
        try:
            return _rows(alone, raw.execute(alone.statement, _typed(driver, alone)).fetchall())
        finally:
            if not raw.closed:
                raw.autocommit = False
    except driver.Error as error:
        if left_with(engine, pooled, error):
            pooled.invalidate(error)
        raise
    finally:
        pooled.close()


async def aexecuted_alone(connection: "AsyncConnection", alone: Alone) -> Reply:
    """As `executed_alone`, on an async connection, but raises DBAPIError."""
    known = connection.sync_connection
    assert known is not None
    driver = driver_of(known)
    raw: psycopg.AsyncConnection[Any] = known.connection.driver_connection  # type: ignore[assignment]
    try:
        await raw.set_autocommit(True)
        try:
            cursor = await raw.execute(alone.statement, _typed(driver, alone))
            return _rows(alone, await cursor.fetchall())
        finally:
            if not raw.closed:
                await raw.set_autocommit(False)
    except driver.Error as error:
        made = raised(known, error, alone.statement)
        if made.connection_invalidated:
            await connection.invalidate(error)
        raise made from error
