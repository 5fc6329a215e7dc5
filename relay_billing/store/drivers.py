"""Runs steps in a transaction, and tells database errors apart. `adrivers` does the same for asyncio."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import URL, Connection, CursorResult, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from relay_billing.domain.errors import BillingUnavailable, InvalidRequest, UpdateDataError
from relay_billing.domain.sessions import BillingSession
from relay_billing.store.commands import Reply, Steps
from relay_billing.store.dialects import AtOnce, Dialect
from relay_billing.store.pipeline import executed_alone, piped, pipelined
from relay_billing.store.postgresql import POSTGRESQL
from relay_billing.store.sqlite import SQLITE

if TYPE_CHECKING:
    # A tenth of a second to import, which a relay without asyncio doesn't spend.
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

ATTEMPTS = 6
FIRST_PAUSE_S = 0.02
POOL_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 5

PIPELINING = ("psycopg", "psycopg_async")
"""Drivers, as SQLAlchemy calls them, that are sent statements past it; others go the long way."""
DIALECTS = {each.name: each for each in (POSTGRESQL, SQLITE)}


def dialect_of(engine: "Engine | AsyncEngine") -> Dialect:
    """The dialect of an engine. Raises InvalidRequest for a database that is not supported."""
    if engine.dialect.name not in DIALECTS:
        raise InvalidRequest("database_url", f"{engine.dialect.name} is not supported; use {', '.join(DIALECTS)}")
    found = DIALECTS[engine.dialect.name]
    return found if engine.dialect.driver in PIPELINING else replace(found, hold_at_once=None)


def reply_of(result: CursorResult[tuple[object, ...]]) -> Reply:
    """What a statement brought."""
    rows = (
        [{str(name): value for name, value in row.items()} for row in result.mappings()] if result.returns_rows else []
    )
    return Reply(rows, result.rowcount)


def run(connection: Connection, steps: Steps[T]) -> T:
    """Carry a generator of commands to its end on one connection; return what it returns."""
    send, first = connection.dialect.driver in PIPELINING, True
    try:
        commands = next(steps)
        while True:
            if send and pipelined(commands):
                replies = piped(connection, commands, first=first)
                first = False
            else:
                replies = [reply_of(connection.execute(each.statement, each.parameters)) for each in commands]
            commands = steps.send(replies)
    except StopIteration as end:
        value: T = end.value
        return value


@contextmanager
def _transaction(engine: Engine, dialect: Dialect) -> Iterator[Connection]:
    if dialect.begin is None:
        with engine.begin() as connection:
            yield connection
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in dialect.opening:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql(dialect.begin)
        try:
            yield connection
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")


def at_once(engine: Engine, case: AtOnce) -> BillingSession | None:
    """Run one statement that commits itself; None: it changed nothing that is known of, and the general path decides.

    That path is right after any error: what was committed after all, it meets as a replay.
    """
    try:
        row = executed_alone(engine, case)
    except (SQLAlchemyError, engine.dialect.loaded_dbapi.Error):
        return None
    return None if row is None else case.session_of(row)


class Attempts:
    """Counts what was tried, and decides whether an error is worth another try."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._made = 0

    def failed(self, error: SQLAlchemyError) -> float:
        """The pause, in seconds, before the next attempt; raises one of our errors when there is none."""
        self._made += 1
        # Two at once with one request id: the second insert fails, and its next attempt meets a replay.
        again = isinstance(error, IntegrityError | PoolTimeout)
        again = again or (isinstance(error, DBAPIError) and self._dialect.transient(error))
        if again and self._made < ATTEMPTS:
            return FIRST_PAUSE_S * float(2 ** (self._made - 1)) * random.uniform(0.5, 1.5)
        cause = str(getattr(error, "orig", error)).strip().split("\n")[0]
        if again and not isinstance(error, IntegrityError):
            raise BillingUnavailable(f"the database did not take it in {self._made} attempts: {cause}") from error
        raise UpdateDataError(f"the database refused it: {cause}") from error


def transact(engine: Engine, dialect: Dialect, make: Callable[[], Steps[T]]) -> T:
    """Run the steps in one transaction, again where the database asks for it.

    Everything run here may be run twice: a commit whose answer was lost is met as a replay or a duplicate.
    Raises BillingUnavailable after a bounded number of attempts, UpdateDataError for what no retry mends.
    """
    attempts = Attempts(dialect)
    while True:
        try:
            with _transaction(engine, dialect) as connection:
                return run(connection, make())
        except SQLAlchemyError as error:
            pause = attempts.failed(error)
        time.sleep(pause)


def url_of(database_url: str) -> URL:
    """The URL in its parts. Raises InvalidRequest for what is none, or is of a database that is not supported."""
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError) as error:
        raise InvalidRequest("database_url", "is not a database URL, as postgresql://user@host/name") from error
    if url.get_backend_name() not in DIALECTS:
        supported = ", ".join(DIALECTS)
        raise InvalidRequest("database_url", f"{url.get_backend_name()} is not supported; use {supported}")
    return url


def shown(database_url: str) -> str:
    """The URL as people and logs may see it: without passwords, those of its query too."""
    url = make_url(database_url)
    query = {name: "***" if "pass" in name else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def engine_options(url: URL) -> dict[str, object]:
    """How connections of this database are pooled and opened."""
    if url.get_backend_name() == "sqlite":
        return {}
    return {
        "pool_timeout": POOL_TIMEOUT_S,
        "pool_use_lifo": True,
        "connect_args": {"connect_timeout": CONNECT_TIMEOUT_S},
    }


def engine_of(database_url: str) -> Engine:
    """An engine for a database URL; of PostgreSQL through psycopg 3. Raises InvalidRequest for another database."""
    url = url_of(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return create_engine(url, **engine_options(url))
