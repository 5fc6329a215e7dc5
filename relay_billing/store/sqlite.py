"""SQLite, for one machine: write-ahead log, one writer at a time, foreign keys on."""

from sqlalchemy import Insert, Text, Update, case, column, func, literal, select, union_all
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError

from relay_billing.schema import ACCOUNT_TABLES
from relay_billing.store.commands import Command, Rows
from relay_billing.store.dialects import Dialect, on_conflict

BUSY_TIMEOUT_MS = 10_000
CHECKPOINT_PAGES = 4_000
"""Pages in the log (16 MiB) after which a commit copies them into the database. SQLite's default of 1,000 is reached
after less than a hundred holds; with more, a page that changed several times is copied only once."""


def _row_by_row(statement: Insert | Update, rows: Rows) -> Command:
    """One statement, sent with many sets of parameters (`executemany`)."""
    return Command(statement, rows, len(rows) if isinstance(statement, Update) else None, constant=True)


def _transient(error: DBAPIError) -> bool:
    # sqlite3 has one OperationalError for a busy database and a missing table; only the message differs.
    words = str(error.orig)
    return "locked" in words or "busy" in words


_COLUMNS = union_all(
    *(
        select(
            literal(name).label("table_name"),
            column("name", Text).label("column_name"),
            # Whatever a column's type is called, its integers have 64 bits.
            case((func.lower(column("type", Text)).contains("int"), "bigint"), else_=column("type", Text)).label(
                "data_type"
            ),
        ).select_from(func.pragma_table_info(name).table_valued("name", "type"))
        for name in ACCOUNT_TABLES
    )
)
SQLITE = Dialect(
    "sqlite",
    on_conflict(insert),
    lambda _: None,
    (
        f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
        "PRAGMA journal_mode=WAL",
        "PRAGMA foreign_keys=ON",
        f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}",
    ),
    # The write lock is taken first: a transaction that reads first and writes later could not be upgraded.
    "BEGIN IMMEDIATE",
    # A reader sees the last commit, whoever writes.
    "BEGIN",
    _row_by_row,
    None,
    _transient,
    one_writer=True,
    columns=_COLUMNS,
)
