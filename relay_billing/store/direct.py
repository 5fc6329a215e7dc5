"""Runs constant statements on sqlite3 directly: going through SQLAlchemy took most of a hold's processor time.

Each statement is compiled once, and sqlite3 caches the prepared statement by its text.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, Executable, Select
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

from relay_billing.store.commands import Command, Reply, Rows
from relay_billing.store.raised import driver_of, raised

if TYPE_CHECKING:
    import sqlite3

    # An extra that only the asynchronous client needs.
    import aiosqlite
    from sqlalchemy.ext.asyncio import AsyncConnection

_COMPILER_DIALECT = SQLiteDialect_pysqlite(paramstyle="named")
CACHED = 128
"""Compiled statements kept; there are a few dozen constant ones. As many as sqlite3 keeps prepared."""
Process = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A constant statement, compiled for sqlite3."""

    text: str
    inside: Mapping[str, Any]
    """Values of the parameters that the statement itself fixes."""
    given: tuple[tuple[str, Process], ...]
    """Conversions of parameters by name: SQLite takes a list of ids as JSON, for example."""
    names: tuple[str, ...]
    """Columns of its rows; empty: it returns no rows."""
    read: tuple[tuple[str, Process], ...]
    """Conversions of columns by name: SQLite has no booleans."""


@lru_cache(maxsize=CACHED)
def _sent(statement: Executable, names: tuple[str, ...], *, many: bool) -> _Sent:
    """Compile it. `names`: the parameters; for an INSERT, its columns. `many`: it is sent by `executemany`."""
    compiled = statement.compile(  # type: ignore[attr-defined]
        dialect=_COMPILER_DIALECT, column_keys=list(names), for_executemany=many
    )
    assert isinstance(compiled, SQLCompiler)
    columns = dict(statement.selected_columns.items()) if isinstance(statement, Select) else {}
    given = [(name, each.type.dialect_impl(_COMPILER_DIALECT)) for name, each in compiled.binds.items()]
    read = [(name, each.type.dialect_impl(_COMPILER_DIALECT)) for name, each in columns.items()]
    return _Sent(
        str(compiled),
        {name: each.effective_value for name, each in compiled.binds.items() if not each.required},
        tuple((name, made) for name, each in given if (made := each.bind_processor(_COMPILER_DIALECT)) is not None),
        tuple(columns),
        tuple((n, made) for n, each in read if (made := each.result_processor(_COMPILER_DIALECT, None)) is not None),
    )


def _parameters(sent: _Sent, given: Mapping[str, object]) -> dict[str, object]:
    values = {**sent.inside, **given}
    for name, process in sent.given:
        values[name] = process(values[name])
    return values


def _row(sent: _Sent, row: Sequence[object]) -> dict[str, object]:
    values = dict(zip(sent.names, row, strict=True))
    for name, process in sent.read:
        values[name] = process(values[name])
    return values


def _sent_of(command: Command) -> _Sent:
    """The compiled statement. Its parameters are one set, a dict, or a list of sets."""
    parameters = command.parameters
    if isinstance(parameters, dict):
        return _sent(command.statement, tuple(parameters), many=False)
    return _sent(command.statement, tuple(cast("Rows", parameters)[0]), many=True)


def _rows(sent: _Sent, command: Command) -> list[dict[str, object]]:
    return [_parameters(sent, each) for each in cast("Rows", command.parameters)]


def _reply(sent: _Sent, rows: Iterable[Sequence[object]]) -> Reply:
    found = [_row(sent, row) for row in rows]
    return Reply(found, len(found))


def _raised(connection: Connection, error: Exception, commands: Sequence[Command]) -> DBAPIError:
    return raised(connection, error, "; ".join(_sent_of(each).text for each in commands))


def carried_out(connection: Connection, commands: Sequence[Command]) -> list[Reply]:
    """Run constant commands in their order; return a reply for each. Raises SQLAlchemy's errors."""
    raw: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    replies = []
    try:
        for command in commands:
            sent = _sent_of(command)
            if isinstance(command.parameters, dict):
                found = raw.execute(sent.text, _parameters(sent, command.parameters)).fetchall()
                replies.append(_reply(sent, found))
            else:
                replies.append(Reply((), raw.executemany(sent.text, _rows(sent, command)).rowcount))
    except driver_of(connection).Error as error:
        raise _raised(connection, error, commands) from error
    return replies


async def acarried_out(connection: "AsyncConnection", commands: Sequence[Command]) -> list[Reply]:
    """As `carried_out`, on aiosqlite, with one switch to its thread per statement; SQLAlchemy makes several."""
    known = connection.sync_connection
    assert known is not None
    raw: aiosqlite.Connection = known.connection.driver_connection  # type: ignore[assignment]
    replies = []
    try:
        for command in commands:
            sent = _sent_of(command)
            if isinstance(command.parameters, dict):
                found = await raw.execute_fetchall(sent.text, _parameters(sent, command.parameters))
                replies.append(_reply(sent, found))
            else:
                replies.append(Reply((), (await raw.executemany(sent.text, _rows(sent, command))).rowcount))
    except driver_of(known).Error as error:
        raise _raised(known, error, commands) from error
    return replies
