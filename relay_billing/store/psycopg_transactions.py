"""psycopg's transactions: BEGIN and COMMIT are statements of the pipeline, so neither costs a round trip of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from relay_billing.store.raised import driver_of, raised

if TYPE_CHECKING:
    # An extra that SQLite does not need.
    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection


def _open(raw: "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]") -> bool:
    """Whether a transaction is open, a failed one too."""
    return not raw.closed and raw.pgconn.transaction_status != 0  # libpq's PQTRANS_IDLE


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Run the block in the transaction that its first list of commands begins, and commit it if no list has.

    Within the block the connection is in autocommit mode: otherwise psycopg would send a BEGIN itself and wait for it.
    """
    raw: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    raw.autocommit = True
    try:
        yield
        if _open(raw):
            raw.commit()
    except driver_of(connection).Error as error:
        raise raised(connection, error, "COMMIT") from error
    finally:
        # Other users of the engine rely on psycopg to begin their transactions.
        if _open(raw):
            raw.rollback()
        if not raw.closed:
            raw.autocommit = False


@asynccontextmanager
async def atransaction(connection: "AsyncConnection") -> AsyncIterator[None]:
    """As `transaction`, on an async connection."""
    known = connection.sync_connection
    assert known is not None
    raw: psycopg.AsyncConnection[Any] = known.connection.driver_connection  # type: ignore[assignment]
    await raw.set_autocommit(True)
    try:
        yield
        if _open(raw):
            await raw.commit()
    except driver_of(known).Error as error:
        raise raised(known, error, "COMMIT") from error
    finally:
        if _open(raw):
            await raw.rollback()
        if not raw.closed:
            await raw.set_autocommit(False)
