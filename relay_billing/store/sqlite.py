"""SQLite, for one machine: write-ahead log, one writer at a time, foreign keys on."""

from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError

from relay_billing.store.commands import row_by_row
from relay_billing.store.dialects import Dialect

BUSY_TIMEOUT_MS = 10_000


def _transient(error: DBAPIError) -> bool:
    # sqlite3 has one OperationalError for a busy database and a missing table; only the words tell them apart.
    words = str(error.orig)
    return "locked" in words or "busy" in words


SQLITE = Dialect(
    "sqlite",
    insert,
    (f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}", "PRAGMA journal_mode=WAL", "PRAGMA foreign_keys=ON"),
    # The write lock is taken at once: a transaction that reads first and writes later could not be upgraded.
    "BEGIN IMMEDIATE",
    row_by_row,
    None,
    _transient,
)
