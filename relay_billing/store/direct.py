"""Runs constant statements on sqlite3 directly: going through SQLAlchemy took most of a hold's processor time.

Each statement is compiled once, and sqlite3 caches the prepared statement by its text.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError

from relay_billing.store.commands import Command, Reply
from relay_billing.store.compiled import Sent, sent_of
from relay_billing.store.raised import driver_of, raised

if TYPE_CHECKING:
    import sqlite3

    # An extra that only the asynchronous client needs.
    import aiosqlite
    from sqlalchemy.ext.asyncio import AsyncConnection

_COMPILER_DIALECT = SQLiteDialect_pysqlite(paramstyle="named")


def _sent_of(command: Command) -> Sent:
    return sent_of(command, _COMPILER_DIALECT)


def _raised(connection: Connection, error: Exception, commands: Sequence[Command]) -> DBAPIError:
    return raised(connection, error, "; ".join(_sent_of(each).text for each in commands))


def _unanswered(commands: Sequence[Command], replies: list[Reply]) -> Iterator[tuple[Command, Sent]]:
    """The commands that must be sent, each once the reply before it is there; replies that are known are added."""
    for command in commands:
        if (spared := Reply.known(command, replies)) is not None:
            replies.append(spared)
        else:
            yield command, _sent_of(command)


def carried_out(connection: Connection, commands: Sequence[Command]) -> list[Reply]:
    """Run constant commands in their order; return a reply for each. Raises SQLAlchemy's errors."""
    raw: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    replies: list[Reply] = []
    try:
        for command, sent in _unanswered(commands, replies):
            if isinstance(command.parameters, dict):
                found = raw.execute(sent.text, sent.parameters(command.parameters)).fetchall()
                replies.append(sent.reply(found))
            else:
                replies.append(Reply((), raw.executemany(sent.text, sent.all_parameters(command)).rowcount))
    except driver_of(connection).Error as error:
        raise _raised(connection, error, commands) from error
    return replies


async def acarried_out(connection: "AsyncConnection", commands: Sequence[Command]) -> list[Reply]:
    """As `carried_out`, on aiosqlite, with one switch to its thread per statement; SQLAlchemy makes several."""
    known = connection.sync_connection
    assert known is not None
    raw: aiosqlite.Connection = known.connection.driver_connection  # type: ignore[assignment]
    replies: list[Reply] = []
    try:
        for command, sent in _unanswered(commands, replies):
            if isinstance(command.parameters, dict):
                found = await raw.execute_fetchall(sent.text, sent.parameters(command.parameters))
                replies.append(sent.reply(found))
            else:
                replies.append(Reply((), (await raw.executemany(sent.text, sent.all_parameters(command))).rowcount))
    except driver_of(known).Error as error:
        raise _raised(known, error, commands) from error
    return replies
