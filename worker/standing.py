"""How things stand, database and broker, as metrics, `status` and `health` tell it. Every wait here is short."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from relay_billing import overview
from relay_billing.overview import Overview
from relay_billing.store.drivers import engine_of
from worker import queues
from worker.queues import BrokerAway, QueueState

CONNECT_TIMEOUT_S = 2
"""The least that libpq knows."""
STATEMENT_TIMEOUT_MS = 2_000


@dataclass(frozen=True, slots=True)
class Standing:
    """What could be read, and why the rest could not."""

    overview: Overview | None
    database_problem: str | None
    queues: tuple[QueueState, ...]
    broker_problem: str | None


def _engine(database_url: str) -> Engine:
    """An engine that keeps no connection: the worker's main process forks, and children must inherit none."""
    made = engine_of(database_url)
    waits = {"timeout": CONNECT_TIMEOUT_S}
    if made.dialect.name == "postgresql":
        waits = {"connect_timeout": CONNECT_TIMEOUT_S}
    return create_engine(made.url, poolclass=NullPool, connect_args=waits)


@contextmanager
def connected(database_url: str) -> Iterator[Connection]:
    """A connection with short waits, closed with the block."""
    with _engine(database_url).connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
        yield connection


def cause_of(error: SQLAlchemyError) -> str:
    """The driver's own words, in one line."""
    return str(getattr(error, "orig", error)).strip().split("\n")[0]


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def read(database_url: str, broker_url: str) -> Standing:
    """Read everything once."""
    seen, database_problem = None, None
    try:
        with connected(database_url) as connection:
            seen = overview.read(connection, now_ms())
    except SQLAlchemyError as error:
        database_problem = cause_of(error)
    try:
        return Standing(seen, database_problem, queues.look(broker_url), None)
    except BrokerAway as error:
        return Standing(seen, database_problem, (), str(error))
