"""Runs steps in a transaction on asyncio: the async counterpart of `drivers`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from relay_billing.column_types import MYSQL
from relay_billing.store import sqlite_transactions
from relay_billing.store.commands import Alone, Command, Reply, Steps
from relay_billing.store.dialects import Dialect
from relay_billing.store.direct import acarried_out
from relay_billing.store.drivers import (
    NOTHING_KNOWN,
    PIPELINING,
    WENT_ON,
    Attempts,
    Kept,
    bounds_of,
    reply_of,
    url_of,
)
from relay_billing.store.engine_options import bind, engine_options, server_url
from relay_billing.store.last import Last
from relay_billing.store.waits import Bounds, Waits, waits_of

T = TypeVar("T")

DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+aiomysql", "sqlite": "sqlite+aiosqlite"}
"""SQLAlchemy's names, by kind of database."""
DIRECT = "aiosqlite"
"""SQLAlchemy's name of the SQLite driver that is sent constant statements directly."""


async def _acarried_out(connection: AsyncConnection, commands: Sequence[Command], *, first: bool) -> Sequence[Reply]:
    if connection.dialect.driver in PIPELINING and Command.together(commands):
        from relay_billing.store import pipeline

        return await pipeline.apiped(connection, commands, first=first)
    if connection.dialect.driver == DIRECT and Command.together(commands):
        return await acarried_out(connection, commands)
    if connection.dialect.name in MYSQL:
        from relay_billing.store import mysql_direct

        replies: list[Reply] = []
        for constant, some in mysql_direct.runs(commands):
            if constant:
                replies += await mysql_direct.acarried_out(connection, some)
            else:
                replies += [await _aexecuted(connection, each) for each in some]
        return replies
    return [await _aexecuted(connection, each) for each in commands]


async def _aexecuted(connection: AsyncConnection, command: Command) -> Reply:
    return reply_of(await connection.execute(command.statement, command.parameters))


@asynccontextmanager
async def _atransaction(engine: AsyncEngine, dialect: Dialect, *, reading: bool) -> AsyncIterator[AsyncConnection]:
    begin = dialect.begin_reading if reading else dialect.begin
    if begin is None:
        async with engine.begin() as connection:
            yield connection
        return
    async with engine.connect() as connection, sqlite_transactions.atransaction(connection, dialect.opening, begin):
        yield connection


async def _aalone(engine: AsyncEngine, command: Alone) -> Reply:
    from relay_billing.store import pipeline

    try:
        async with engine.connect() as connection:
            return await pipeline.aexecuted_alone(connection, command)
    except SQLAlchemyError:
        return NOTHING_KNOWN


async def atransact(engine: AsyncEngine, dialect: Dialect, make: Callable[[], Steps[T]], *, reading: bool = False) -> T:
    """As `transact`, on an async engine."""
    bounds = bounds_of(engine)
    with bounds.call():
        attempts, kept = Attempts(dialect, engine.pool, bounds), Kept()
        while True:
            try:
                return await _aattempt(engine, dialect, make(), kept, reading=reading)
            except SQLAlchemyError as error:
                pause = attempts.failed(error)
            await asyncio.sleep(pause)


async def _aattempt(engine: AsyncEngine, dialect: Dialect, steps: Steps[T], kept: Kept, *, reading: bool) -> T:
    try:
        commands = next(steps)
        if commands and isinstance(commands[0], Alone):
            if kept.reply is None:
                kept.reply = await _aalone(engine, commands[0])
            commands = steps.send([kept.reply])
    except StopIteration as end:
        return cast(T, end.value)
    piped = engine.dialect.driver in PIPELINING and Command.together(commands)
    async with _atransaction(engine, dialect, reading=reading) as connection:
        first = True
        try:
            while True:
                replies = await _acarried_out(connection, cast("Sequence[Command]", commands), first=first and piped)
                ended = isinstance(commands, Last)
                commands, first = steps.send(replies), False
                assert not ended, WENT_ON
        except StopIteration as end:
            return cast(T, end.value)


def async_engine_of(database_url: str) -> AsyncEngine:
    """As `engine_of`, for asyncio; SQLite is reached through aiosqlite."""
    url = url_of(database_url)
    sqlite = url.get_backend_name() == "sqlite"
    bounds = Bounds(waits_of(url, Waits(), None), cuts=not sqlite)
    url = server_url(url, DRIVERS)
    options = engine_options(url, bounds, keep=True)
    if sqlite:
        # Set once per connection, because each change is a switch to aiosqlite's thread. The engine has no other user.
        options["isolation_level"] = "AUTOCOMMIT"
    made = create_async_engine(url, **options)
    bind(made.sync_engine, bounds)
    return made
