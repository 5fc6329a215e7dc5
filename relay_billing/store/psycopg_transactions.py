"""psycopg's transactions: BEGIN and COMMIT are statements of the pipeline, so neither costs a round trip of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine

if TYPE_CHECKING:
    # An extra that SQLite does not need.
    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_IDLE = 0
"""libpq's PQTRANS_IDLE: no transaction is open."""


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A connection on which the first list of commands begins the transaction, and a `Last` commits it.

    Within the block it is in psycopg's autocommit mode: otherwise psycopg would send a BEGIN itself and wait for it.
    SQLAlchemy commits what no list has committed, rolls back after an error, and calls its listeners as always.
    """
    with engine.connect() as connection:
        raw: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
        raw.autocommit = True
        try:
            with connection.begin():
                yield connection
        finally:
            # Other users of the engine rely on psycopg to begin their transactions.
            if raw.pgconn.transaction_status == _IDLE:
                raw.autocommit = False
            else:
                raw.close()


@asynccontextmanager
async def atransaction(engine: "AsyncEngine") -> "AsyncIterator[AsyncConnection]":
    """As `transaction`, on an async engine."""
    async with engine.connect() as connection:
        pooled = await connection.get_raw_connection()
        raw: psycopg.AsyncConnection[Any] = pooled.driver_connection  # type: ignore[assignment]
        await raw.set_autocommit(True)
        try:
            async with connection.begin():
                yield connection
        finally:
            if raw.pgconn.transaction_status == _IDLE:
                await raw.set_autocommit(False)
            else:
                await raw.close()
