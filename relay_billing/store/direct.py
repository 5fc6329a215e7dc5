"""sqlite3 itself: constant statements past SQLAlchemy's own execution, which takes most of a hold's processor time.

Each is compiled once; sqlite3 keeps what it has prepared by its text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, Executable, Select
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.sql.compiler import SQLCompiler

from relay_billing.store.commands import Command, Reply, Rows
from relay_billing.store.raised import driver_of, raised

if TYPE_CHECKING:
    import sqlite3

_COMPILER_DIALECT = SQLiteDialect_pysqlite(paramstyle="named")  # type: ignore[no-untyped-call]
CACHED = 128
"""Compiled statements kept; there are a few dozen constant ones. As many as sqlite3 keeps prepared."""
Process = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """A constant statement as sqlite3 is given it."""

    text: str
    inside: Mapping[str, Any]
    """Parameters that the statement itself holds."""
    given: tuple[tuple[str, Process], ...]
    """Parameters that SQLite knows in another form than Python, lists of ids for one."""
    names: tuple[str, ...]
    """Columns of its rows; none: it brings no rows."""
    read: tuple[tuple[str, Process], ...]
    """Columns of which the same is true: SQLite has no booleans."""


@lru_cache(maxsize=CACHED)
def _sent(statement: Executable, names: tuple[str, ...], *, many: bool) -> Sent:
    """`names`: of its parameters, which are an INSERT's columns. `many`: it is sent with a list of them."""
    compiled = statement.compile(  # type: ignore[attr-defined]
        dialect=_COMPILER_DIALECT, column_keys=list(names), for_executemany=many
    )
    assert isinstance(compiled, SQLCompiler)
    columns = dict(statement.selected_columns.items()) if isinstance(statement, Select) else {}
    given = [(name, each.type.dialect_impl(_COMPILER_DIALECT)) for name, each in compiled.binds.items()]
    read = [(name, each.type.dialect_impl(_COMPILER_DIALECT)) for name, each in columns.items()]
    return Sent(
        str(compiled),
        {name: each.effective_value for name, each in compiled.binds.items() if not each.required},
        tuple((name, made) for name, each in given if (made := each.bind_processor(_COMPILER_DIALECT)) is not None),
        tuple(columns),
        tuple((n, made) for n, each in read if (made := each.result_processor(_COMPILER_DIALECT, None)) is not None),
    )


def _parameters(sent: Sent, given: Mapping[str, object]) -> dict[str, object]:
    values = {**sent.inside, **given}
    for name, process in sent.given:
        values[name] = process(values[name])
    return values


def _row(sent: Sent, row: Sequence[object]) -> dict[str, object]:
    values = dict(zip(sent.names, row, strict=True))
    for name, process in sent.read:
        values[name] = process(values[name])
    return values


def _raw(connection: Connection) -> "sqlite3.Connection":
    raw: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    return raw


def take_over(connection: Connection) -> str | None:
    """Have transactions begin by our own word alone; returns what to give to `give_back`.

    SQLAlchemy's own way, AUTOCOMMIT, ends with a PRAGMA after which SQLite prepares every statement anew: a third of a
    hold.
    """
    raw: sqlite3.Connection = connection.connection.dbapi_connection  # type: ignore[assignment]
    before = raw.isolation_level
    if before is not None:
        raw.isolation_level = None
    return before


def give_back(connection: Connection, before: str | None) -> None:
    """Have transactions begin as they did before. A connection that was lost meanwhile is nobody's."""
    if before is not None and not connection.invalidated:
        raw: sqlite3.Connection = connection.connection.dbapi_connection  # type: ignore[assignment]
        raw.isolation_level = before  # type: ignore[assignment]


def tell(connection: Connection, words: str) -> None:
    """Carry out one statement in SQLite's own words. Raises SQLAlchemy's errors."""
    try:
        _raw(connection).execute(words)
    except driver_of(connection).Error as error:
        raise raised(connection, error, words) from error


def carried_out(connection: Connection, commands: Sequence[Command]) -> list[Reply]:
    """Carry out constant statements in turn, each for all its rows. Raises SQLAlchemy's errors."""
    raw, sent = _raw(connection), None
    replies = []
    try:
        for command in commands:
            parameters = command.parameters
            if isinstance(parameters, dict):
                sent = _sent(command.statement, tuple(parameters), many=False)
                cursor = raw.execute(sent.text, _parameters(sent, parameters))
                replies.append(Reply([_row(sent, row) for row in cursor.fetchall()], cursor.rowcount))
            else:
                rows = cast("Rows", parameters)
                sent = _sent(command.statement, tuple(rows[0]), many=True)
                cursor = raw.executemany(sent.text, [_parameters(sent, each) for each in rows])
                replies.append(Reply((), cursor.rowcount))
    except driver_of(connection).Error as error:
        raise raised(connection, error, "" if sent is None else sent.text) from error
    return replies
