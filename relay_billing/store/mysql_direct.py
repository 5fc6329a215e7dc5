"""Runs constant statements on PyMySQL and aiomysql directly: SQLAlchemy takes as long as the server does."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Executable, Select
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql

from relay_billing.store.commands import Command, Reply
from relay_billing.store.compiled import CACHED, Sent, sent_of
from relay_billing.store.mysql_locks import asked_before, in_order
from relay_billing.store.raised import driver_of, raised

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_COMPILER_DIALECT = MySQLDialect_pymysql(paramstyle="pyformat")


@lru_cache(maxsize=CACHED)
def _ordered(statement: Select[Any], *, one: bool) -> Select[Any]:
    return in_order(statement, one=one)


@lru_cache(maxsize=CACHED)
def _asked(statement: Executable) -> Select[Any] | None:
    return asked_before(statement) if isinstance(statement, Select) else None


def _before(command: Command) -> Command | None:
    """The command that may make this one needless: by finding nothing."""
    asked = _asked(command.statement)
    return None if asked is None else replace(command, statement=asked)


def _sent_of(command: Command) -> Sent:
    if isinstance(command.statement, Select):
        assert isinstance(command.parameters, Mapping)
        ids = command.parameters.get("ids")
        ordered = _ordered(command.statement, one=isinstance(ids, list) and len(ids) < 2)
        command = replace(command, statement=ordered)
    return sent_of(command, _COMPILER_DIALECT)


def carried_out(connection: Connection, command: Command) -> Reply:
    """Run one constant command. Raises SQLAlchemy's errors."""
    before = _before(command)
    if before is not None and not carried_out(connection, before).rows:
        return Reply((), 0)
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
    before = _before(command)
    if before is not None and not (await acarried_out(connection, before)).rows:
        return Reply((), 0)
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
