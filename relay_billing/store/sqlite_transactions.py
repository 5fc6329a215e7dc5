"""SQLite's transactions: connections are set up once, and BEGIN, COMMIT and ROLLBACK are sent explicitly."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection

from relay_billing.store.raised import driver_of, raised

if TYPE_CHECKING:
    import sqlite3

    # An extra that only the asynchronous client needs.
    import aiosqlite
    from sqlalchemy.ext.asyncio import AsyncConnection

_OPENED = "relay_billing_opened"
"""The key in `Connection.info` that marks a pooled connection as set up."""
_Level = Literal["DEFERRED", "EXCLUSIVE", "IMMEDIATE"] | None
"""`sqlite3.Connection.isolation_level`: how sqlite3 itself begins transactions; None: it does not."""


def _take_over(connection: Connection) -> _Level:
    """Stop sqlite3 from beginning transactions itself; return the level to restore.

    Not SQLAlchemy's AUTOCOMMIT: it ends with a PRAGMA that makes SQLite prepare every statement again, which took half
    of a hold's processor time.
    """
    raw: sqlite3.Connection = connection.connection.dbapi_connection  # type: ignore[assignment]
    before = raw.isolation_level
    if before is not None:
        raw.isolation_level = None
    return before


def _give_back(connection: Connection, before: _Level) -> None:
    """Restore the level. A connection that was lost meanwhile has none to restore."""
    if before is not None and not connection.invalidated:
        raw: sqlite3.Connection = connection.connection.dbapi_connection  # type: ignore[assignment]
        raw.isolation_level = before


def tell(connection: Connection, words: str) -> None:
    """Run one SQL text without parameters. Raises SQLAlchemy's errors."""
    raw: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    try:
        raw.execute(words)
    except driver_of(connection).Error as error:
        raise raised(connection, error, words) from error


@contextmanager
def transaction(connection: Connection, opening: Sequence[str], begin: str) -> Iterator[None]:
    """Run the block in one transaction. `opening` sets a new connection up; `begin` begins the transaction.

    Works on any engine: for its other users, transactions begin as before.
    """
    before = _take_over(connection)
    try:
        if _OPENED not in connection.info:
            for statement in opening:
                tell(connection, statement)
            connection.info[_OPENED] = True
        tell(connection, begin)
        try:
            yield
        except BaseException:
            tell(connection, "ROLLBACK")
            raise
        tell(connection, "COMMIT")
    finally:
        _give_back(connection, before)


async def _atell(connection: "AsyncConnection", words: str) -> None:
    known = connection.sync_connection
    assert known is not None
    raw: aiosqlite.Connection = known.connection.driver_connection  # type: ignore[assignment]
    try:
        await raw.execute_fetchall(words)
    except driver_of(known).Error as error:
        raise raised(known, error, words) from error


@asynccontextmanager
async def atransaction(connection: "AsyncConnection", opening: Sequence[str], begin: str) -> AsyncIterator[None]:
    """As `transaction`, on aiosqlite."""
    before = await connection.run_sync(_take_over)
    try:
        info = (await connection.get_raw_connection()).info
        if _OPENED not in info:
            for statement in opening:
                await _atell(connection, statement)
            info[_OPENED] = True
        await _atell(connection, begin)
        try:
            yield
        except BaseException:
            await _atell(connection, "ROLLBACK")
            raise
        await _atell(connection, "COMMIT")
    finally:
        await connection.run_sync(_give_back, before)
