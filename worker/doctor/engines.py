"""Engines that only read: in read-only transactions, each statement bounded in time."""

import math
import sqlite3
import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from relay_billing.domain.errors import InvalidRequest
from relay_billing.store.drivers import engine_of
from relay_billing.store.urls import parsed
from relay_billing.store.waits import CONNECT_TIMEOUT_S, GRACE_S, Waits

OF_WAL, WAL = slice(18, 20), b"\x02\x02"
"""Where the header of an SQLite file says whether it has a write-ahead log, and how."""
PROGRESS_STEPS = 10_000
"""SQLite's virtual machine looks at the clock after so many instructions: a few times a millisecond."""


class Kind(StrEnum):
    """Which database it is."""

    SQLITE = "SQLite"
    POSTGRESQL = "PostgreSQL"
    MARIADB = "MariaDB"
    MYSQL = "MySQL"


def keeps_log(file: Path) -> bool:
    """Whether an SQLite file has a write-ahead log (WAL). Raises OSError where it can't be read."""
    with open(file, "rb") as header:
        return header.read(OF_WAL.stop)[OF_WAL] == WAL


def _opened(file: Path, statement_s: float) -> sqlite3.Connection:
    """The file, neither made where it is missing nor written to, and nothing made beside it."""
    options = "mode=ro"
    if file.is_file() and keeps_log(file) and not Path(f"{file}-wal").exists():
        # To read it in the usual way would make its log, as whoever runs this. Without a log nobody has it open.
        options += "&immutable=1"
    return sqlite3.connect(f"{file.as_uri()}?{options}", uri=True, timeout=statement_s, check_same_thread=False)


def _sqlite(url: URL, statement_s: float) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidRequest("database_url", "names no file, so there is nothing to look at")
    opened = partial(_opened, Path(url.database).absolute(), statement_s)
    engine = create_engine("sqlite://", creator=opened, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        raw: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        ends = time.monotonic() + statement_s
        raw.set_progress_handler(lambda: time.monotonic() > ends, PROGRESS_STEPS)

    return engine


def _postgresql(url: URL, statement_s: float) -> Engine:
    waits = Waits(statement_s, statement_s, CONNECT_TIMEOUT_S)
    made = engine_of(url.render_as_string(hide_password=False), waits, at_most=waits)
    engine = made.execution_options(postgresql_readonly=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # For this transaction alone: behind a pooler the next one may be another client's.
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {waits.statement_ms}")

    return engine


def _mysql(url: URL, statement_s: float) -> Engine:
    if not url.database:
        raise InvalidRequest("database_url", "names no database, as mysql://user@host/NAME")
    longest = math.ceil(statement_s + GRACE_S)
    engine = create_engine(
        url.set(drivername="mysql+pymysql"),
        pool_size=1,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": longest, "write_timeout": longest},
    )

    @event.listens_for(engine, "connect")
    def connect(raw: Any, record: object) -> None:  # noqa: ANN401
        with raw.cursor() as cursor:
            cursor.execute("SELECT VERSION()")
            mariadb = "MariaDB" in cursor.fetchone()[0]
            limit = (
                f"max_statement_time = {statement_s}" if mariadb else f"max_execution_time = {statement_s * 1000:.0f}"
            )
            cursor.execute(f"SET SESSION {limit}")
            cursor.execute("SET SESSION TRANSACTION READ ONLY")

    return engine


_MAKERS = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql, "mariadb": _mysql}


def reading_engine(database_url: str, statement_s: float) -> Engine:
    """An engine for looking only; a statement may take `statement_s` seconds.

    Raises InvalidRequest for a URL that names no such database, ModuleNotFoundError where its driver is missing.
    """
    url = parsed(database_url)
    make = _MAKERS.get(url.get_backend_name())
    if make is None:
        raise InvalidRequest("database_url", f"{url.get_backend_name()} is none of {', '.join(sorted(_MAKERS))}")
    return make(url, statement_s)
