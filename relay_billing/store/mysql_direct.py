"""Runs constant statements on PyMySQL and aiomysql directly: SQLAlchemy takes as long as the server does."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Executable, Select
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql

from relay_billing.store.commands import Command, Reply
from relay_billing.store.compiled import CACHED, Sent, sent_of
from relay_billing.store.mysql_locks import in_order
from relay_billing.store.raised import driver_of, raised

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_COMPILER_DIALECT = MySQLDialect_pymysql(paramstyle="pyformat")


@lru_cache(maxsize=CACHED)
def _ordered(statement: Executable) -> Executable:
    return in_order(statement) if isinstance(statement, Select) else statement


def _sent_of(command: Command) -> Sent:
    ordered = Command(_ordered(command.statement), command.parameters, command.touches, command.constant)
    return sent_of(ordered, _COMPILER_DIALECT)


def carried_out(connection: Connection, command: Command) -> Reply:
    """Run one constant command. Raises SQLAlchemy's errors."""
    raw: Any = connection.connection.driver_connection
    sent = _sent_of(command)
    try:
        with raw.cursor() as cursor:
            if isinstance(command.parameters, dict):
                cursor.execute(sent.text, sent.parameters(command.parameters))
                return sent.reply(cursor.fetchall() if sent.names else (), cursor.rowcount)
            return Reply((), cursor.executemany(sent.text, sent.all_parameters(command)))
    except driver_of(connection).Error as error:
        made = raised(connection, error, sent.text)
        if made.connection_invalidated:
            connection.invalidate(error)
        raise made from error


async def acarried_out(connection: "AsyncConnection", command: Command) -> Reply:
    """As `carried_out`, on aiomysql."""
    known = connection.sync_connection
    assert known is not None
    raw: Any = known.connection.driver_connection
    sent = _sent_of(command)
    try:
        async with raw.cursor() as cursor:
            if isinstance(command.parameters, dict):
                await cursor.execute(sent.text, sent.parameters(command.parameters))
                return sent.reply(await cursor.fetchall() if sent.names else (), cursor.rowcount)
            return Reply((), await cursor.executemany(sent.text, sent.all_parameters(command)))
    except driver_of(known).Error as error:
        made = raised(known, error, sent.text)
        if made.connection_invalidated:
            await connection.invalidate(error)
        raise made from error
