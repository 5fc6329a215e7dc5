"""The same transactions for asyncio: what `drivers` does, awaited."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from relay_billing.domain.sessions import BillingSession
from relay_billing.store.commands import Steps
from relay_billing.store.dialects import AtOnce, Dialect
from relay_billing.store.drivers import PIPELINING, Attempts, engine_options, reply_of, url_of
from relay_billing.store.pipeline import aexecuted_alone, apiped, pipelined

T = TypeVar("T")


async def arun(connection: AsyncConnection, steps: Steps[T]) -> T:
    """As `run`, on an async connection."""
    send, first = connection.dialect.driver in PIPELINING, True
    try:
        commands = next(steps)
        while True:
            if send and pipelined(commands):
                replies = await apiped(connection, commands, first=first)
                first = False
            else:
                replies = [reply_of(await connection.execute(each.statement, each.parameters)) for each in commands]
            commands = steps.send(replies)
    except StopIteration as end:
        value: T = end.value
        return value


@asynccontextmanager
async def _atransaction(engine: AsyncEngine, dialect: Dialect) -> AsyncIterator[AsyncConnection]:
    if dialect.begin is None:
        async with engine.begin() as connection:
            yield connection
        return
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in dialect.opening:
            await connection.exec_driver_sql(statement)
        await connection.exec_driver_sql(dialect.begin)
        try:
            yield connection
        except BaseException:
            await connection.exec_driver_sql("ROLLBACK")
            raise
        await connection.exec_driver_sql("COMMIT")


async def aat_once(engine: AsyncEngine, case: AtOnce) -> BillingSession | None:
    """As `at_once`, on an async engine."""
    try:
        async with engine.connect() as connection:
            row = await aexecuted_alone(connection, case)
    except SQLAlchemyError:
        return None
    return None if row is None else case.session_of(row)


async def atransact(engine: AsyncEngine, dialect: Dialect, make: Callable[[], Steps[T]]) -> T:
    """As `transact`, on an async engine."""
    attempts = Attempts(dialect)
    while True:
        try:
            async with _atransaction(engine, dialect) as connection:
                return await arun(connection, make())
        except SQLAlchemyError as error:
            pause = attempts.failed(error)
        await asyncio.sleep(pause)


def async_engine_of(database_url: str) -> AsyncEngine:
    """As `engine_of`, for asyncio; SQLite is reached through aiosqlite."""
    url = url_of(database_url)
    driver = "postgresql+psycopg" if url.get_backend_name() == "postgresql" else "sqlite+aiosqlite"
    return create_async_engine(url.set(drivername=driver), **engine_options(url))
