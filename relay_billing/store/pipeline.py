"""psycopg's pipeline: sends a list of constant statements in one round trip, bypassing SQLAlchemy's execution.

The first list of a transaction brings its BEGIN, the last one its COMMIT. Since nobody can look at the replies before
that COMMIT, the server itself checks how many rows a statement has changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import Connection, Engine, Executable, Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

from relay_billing.store.allowance import KEEP_PLANS
from relay_billing.store.commands import Alone, Command, Reply
from relay_billing.store.last import Last
from relay_billing.store.libpq import Prepared, Result, Statement
from relay_billing.store.raised import left_with, raised

if TYPE_CHECKING:
    # Takes 0.1 s to import, which a relay without asyncio saves.
    from sqlalchemy.ext.asyncio import AsyncConnection

_COMPILER_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]
CACHED = 128
"""Compiled statements kept; there are a few dozen constant ones."""
BEGIN, COMMIT = Statement("BEGIN", {}), Statement("COMMIT", {})
OPENING = 2
"""Statements with which the first list of a transaction opens it."""


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


def _parameters(command: Command) -> Mapping[str, object]:
    """The parameters with those that the statement holds. The statement's text has the type of each."""
    given = command.parameters
    assert isinstance(given, Mapping)
    inside = _sent_of(command).inside
    return {**inside, **given} if command.touches is None else {**inside, **given, "touches": command.touches}


def _list(raw: object, commands: Sequence[Command], *, first: bool) -> list[Statement]:
    """What is sent for a list of commands: with the words that begin its transaction, and those that end it."""
    sent = [Statement(_sent_of(each).text, _parameters(each)) for each in commands]
    if first:
        # The default is for engines that `engine_of` has not made.
        sent[:0] = [BEGIN, Statement(getattr(raw, "opening", KEEP_PLANS), {})]
    if isinstance(commands, Last):
        sent.append(COMMIT)
    return sent


def _replies(commands: Sequence[Command], results: Sequence[Result], *, first: bool) -> list[Reply]:
    before = OPENING if first else 0
    asked = results[before : before + len(commands)]
    return [_reply(command, result) for command, result in zip(commands, asked, strict=True)]


def _reply(command: Command, result: Result) -> Reply:
    if command.touches is not None:
        return Reply((), command.touches)
    # The columns are known beforehand: asking for their names costs as much as sending a statement.
    names = _sent_of(command).names or ()
    return Reply([dict(zip(names, row, strict=True)) for row in result.rows] if names else (), result.affected)


def _raised(connection: Connection, error: Exception, commands: Sequence[Command]) -> DBAPIError:
    return raised(connection, error, "; ".join(_sent_of(each).text for each in commands))


def piped(connection: Connection, commands: Sequence[Command], *, first: bool) -> list[Reply]:
    """Run the commands in one round trip; return replies in their order.

    `first`: they begin their transaction. A `Last` ends it: once its replies are there, it is committed.
    """
    pooled = connection.connection
    raw: psycopg.Connection[Any] = pooled.driver_connection  # type: ignore[assignment]
    try:
        results = raw.wait(Prepared.on(pooled).exchange(_list(raw, commands, first=first)))
    except psycopg.Error as error:
        made = _raised(connection, error, commands)
        if made.connection_invalidated:
            connection.invalidate(error)
        raise made from error
    return _replies(commands, results, first=first)


async def apiped(connection: "AsyncConnection", commands: Sequence[Command], *, first: bool) -> list[Reply]:
    """As `piped`, on an async connection."""
    known = connection.sync_connection
    assert known is not None
    pooled = known.connection
    raw: psycopg.AsyncConnection[Any] = pooled.driver_connection  # type: ignore[assignment]
    try:
        results = await raw.wait(Prepared.on(pooled).exchange(_list(raw, commands, first=first)))
    except psycopg.Error as error:
        made = _raised(known, error, commands)
        if made.connection_invalidated:
            await connection.invalidate(error)
        raise made from error
    return _replies(commands, results, first=first)


def _alone(alone: Alone) -> list[Statement]:
    return [Statement(alone.statement, alone.parameters)]


def _rows(alone: Alone, results: Sequence[Result]) -> Reply:
    (result,) = results
    return Reply([dict(zip(alone.names, row, strict=True)) for row in result.rows], result.affected)


def executed_alone(engine: Engine, alone: Alone) -> Reply:
    """Run one auto-committed statement and return its rows. Raises psycopg's errors.

    Uses the pooled connection directly: SQLAlchemy's `Connection` around it would take a tenth of the call.
    """
    pooled = engine.raw_connection()
    raw: psycopg.Connection[Any] = pooled.driver_connection  # type: ignore[assignment]
    try:
        return _rows(alone, raw.wait(Prepared.on(pooled).exchange(_alone(alone))))
    except psycopg.Error as error:
        if left_with(engine, pooled, error):
            pooled.invalidate(error)
        raise
    finally:
        pooled.close()


async def aexecuted_alone(connection: "AsyncConnection", alone: Alone) -> Reply:
    """As `executed_alone`, on an async connection, but raises DBAPIError."""
    known = connection.sync_connection
    assert known is not None
    pooled = known.connection
    raw: psycopg.AsyncConnection[Any] = pooled.driver_connection  # type: ignore[assignment]
    try:
        return _rows(alone, await raw.wait(Prepared.on(pooled).exchange(_alone(alone))))
    except psycopg.Error as error:
        made = raised(known, error, alone.statement)
        if made.connection_invalidated:
            await connection.invalidate(error)
        raise made from error
