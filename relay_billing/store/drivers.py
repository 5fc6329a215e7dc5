"""Runs steps in a transaction; retries or maps database errors. `async_drivers` does the same for asyncio."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import URL, Connection, CursorResult, Engine, Executable, create_engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import Pool

from relay_billing.column_types import MYSQL
from relay_billing.domain.errors import BillingUnavailable, InvalidRequest, UpdateDataError
from relay_billing.store import sqlite_transactions
from relay_billing.store.allowance import Allowance, lengthened
from relay_billing.store.commands import Alone, Command, Reply, Steps
from relay_billing.store.dialects import Dialect
from relay_billing.store.direct import carried_out
from relay_billing.store.engine_options import BOUNDS, bind, engine_options, server_url
from relay_billing.store.failures import cause_of
from relay_billing.store.last import Last
from relay_billing.store.urls import parsed
from relay_billing.store.waits import (
    LONG_STATEMENT_TIMEOUT_S,
    OWN_PARAMETERS,
    Bounds,
    Waits,
    waits_of,
)

if TYPE_CHECKING:
    # Takes 0.1 s to import, which a relay without asyncio saves.
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

ATTEMPTS = 6
FIRST_PAUSE_S = 0.02

PIPELINING = ("psycopg", "psycopg_async")
"""SQLAlchemy's names of the drivers that are sent constant statements directly; others get them from SQLAlchemy."""
DIRECT = "pysqlite"
"""The same for SQLite, one statement at a time."""
STREAMED = {"stream_results": True, "yield_per": 1_000}
"""Options of a streamed read, which keeps at most 1,000 rows in memory."""
NOTHING_KNOWN = Reply((), 0)
"""The reply to an auto-committed statement that failed, so that its effect is unknown."""
WENT_ON = "a flow went on after the list that ended its transaction"
SUPPORTED = ("postgresql", "mysql", "mariadb", "sqlite")
"""SQLAlchemy's names of the databases that are supported."""


def dialect_of(engine: "Engine | AsyncEngine", *, fast_paths: bool = True) -> Dialect:
    """The dialect of an engine; `fast_paths` False: without them. Raises InvalidRequest for an unsupported database."""
    name = engine.dialect.name
    if name not in SUPPORTED:
        raise InvalidRequest("database_url", f"{name} is not supported; use {', '.join(SUPPORTED)}")
    # Imported on first use, with its fast paths: a relay has one database.
    if name == "sqlite":
        from relay_billing.store.sqlite import SQLITE as found  # noqa: N811
    elif name in MYSQL:
        from relay_billing.store.mysql import MYSQL as found  # noqa: N811
    else:
        from relay_billing.store.postgresql import POSTGRESQL as found  # noqa: N811
    fast = fast_paths and engine.dialect.driver in PIPELINING
    return found if fast else replace(found, fast=None)


def reply_of(result: CursorResult[tuple[object, ...]]) -> Reply:
    """The reply to a statement."""
    rows = (
        [{str(name): value for name, value in row.items()} for row in result.mappings()] if result.returns_rows else []
    )
    return Reply(rows, result.rowcount)


def _carried_out(connection: Connection, commands: Sequence[Command], *, first: bool) -> Sequence[Reply]:
    """Run one list of commands. `first`: it begins its transaction."""
    if connection.dialect.driver in PIPELINING and Command.together(commands):
        from relay_billing.store import pipeline

        return pipeline.piped(connection, commands, first=first)
    if connection.dialect.driver == DIRECT and Command.together(commands):
        return carried_out(connection, commands)
    if connection.dialect.name in MYSQL:
        from relay_billing.store import mysql_direct

        replies: list[Reply] = []
        for constant, some in mysql_direct.runs(commands):
            if constant:
                replies += mysql_direct.carried_out(connection, some)
            else:
                replies += [_executed(connection, each) for each in some]
        return replies
    return [_executed(connection, each) for each in commands]


def _executed(connection: Connection, command: Command) -> Reply:
    return reply_of(connection.execute(command.statement, command.parameters))


def _set_up(connection: Connection, opening: Sequence[str]) -> None:
    """Set a MySQL connection up that an engine of the caller's own has made; ours are, as they are opened.

    With each transaction: whatever else uses that engine may have set it otherwise. Raises InvalidRequest for an engine
    that commits each statement by itself.
    """
    raw: Any = connection.connection.driver_connection
    if not opening or isinstance(raw, Allowance):
        return
    if raw.get_autocommit():
        raise InvalidRequest("engine", "commits each statement by itself (AUTOCOMMIT); billing needs transactions")
    for statement in opening:
        connection.exec_driver_sql(statement)


@contextmanager
def _transaction(engine: Engine, dialect: Dialect, *, reading: bool) -> Iterator[Connection]:
    """A transaction. One whose first list of commands is pipelined begins with that list."""
    begin = dialect.begin_reading if reading else dialect.begin
    if begin is None:
        with engine.begin() as connection:
            _set_up(connection, dialect.opening)
            yield connection
        return
    with engine.connect() as connection, sqlite_transactions.transaction(connection, dialect.opening, begin):
        yield connection


def bounds_of(engine: "Engine | AsyncEngine") -> Bounds:
    """The bounds of an engine. For one that `engine_of` has not made: default waits, which don't cut attempts short."""
    found: Bounds | None = engine.get_execution_options().get(BOUNDS)
    return found or Bounds(Waits(), cuts=False)


def _alone(engine: Engine, command: Alone) -> Reply:
    """Run one auto-committed statement. An error counts as no rows: the general path is correct after any error."""
    from relay_billing.store import pipeline

    try:
        return pipeline.executed_alone(engine, command)
    except (SQLAlchemyError, engine.dialect.loaded_dbapi.Error):
        return NOTHING_KNOWN


@dataclass(slots=True)
class Kept:
    """The reply to the auto-committed statement, which runs once, however many attempts follow."""

    reply: Reply | None = None
    """None: it has not run yet."""


class Attempts:
    """Counts the attempts of a call, and decides whether an error is retried."""

    def __init__(self, dialect: Dialect, pool: Pool, bounds: Bounds) -> None:
        self._dialect, self._pool, self._bounds = dialect, pool, bounds
        self._made = 0
        self._began, self._began_at = time.monotonic(), time.time()

    def failed(self, error: SQLAlchemyError) -> float:
        """Seconds before the next attempt; raises BillingUnavailable or UpdateDataError if there is none."""
        self._made += 1
        # Two concurrent calls with one request id: the second insert fails; its next attempt finds a replay.
        again = isinstance(error, IntegrityError | PoolTimeout)
        again = again or (isinstance(error, DBAPIError) and self._dialect.transient(error))
        afresh = isinstance(error, DBAPIError) and self._dialect.stale(error)
        if afresh:
            self._leave_server()
        pause = FIRST_PAUSE_S * float(2 ** (self._made - 1)) * random.uniform(0.5, 1.5)
        room = self._bounds.room(time.monotonic() - self._began, pause)
        self._began, self._began_at = time.monotonic() + pause, time.time() + pause
        if again and room and self._made < ATTEMPTS:
            return pause
        if again and (not room or not isinstance(error, IntegrityError)):
            if afresh and not room:
                self._bounds.give_up()
            raise BillingUnavailable(
                f"the database did not take it in {self._made} attempts: {cause_of(error)}"
            ) from error
        raise UpdateDataError(f"the database refused it: {cause_of(error)}") from error

    def _leave_server(self) -> None:
        """Make the pool reopen all its connections, those of other threads too: they lead to the same server.

        Skipped if that happened since this attempt began: then its connection was one of the old ones.
        """
        if self._pool._invalidate_time < self._began_at:
            # SQLAlchemy does this itself only for lost connections, and only for statements that it has run.
            self._pool._invalidate(None)  # type: ignore[arg-type]


def transact(
    engine: Engine,
    dialect: Dialect,
    make: Callable[[], Steps[T]],
    *,
    reading: bool = False,
    allowed_s: float | None = None,
) -> T:
    """Run the steps in one transaction, retry transient errors, and return the result. `reading`: they change nothing.

    The steps may run twice: if the answer to a commit was lost, the retry finds a replay or a duplicate. `allowed_s`:
    seconds for each statement; unset: the engine's time-out. Raises BillingUnavailable after a bounded number of
    attempts or a bounded time, UpdateDataError for errors that no retry can fix.
    """
    bounds = bounds_of(engine)
    with bounds.call(allowed_s):
        attempts, kept = Attempts(dialect, engine.pool, bounds), Kept()
        while True:
            try:
                return _attempt(engine, dialect, make(), kept, reading=reading, allowed_s=allowed_s)
            except SQLAlchemyError as error:
                pause = attempts.failed(error)
            time.sleep(pause)


def _attempt(
    engine: Engine, dialect: Dialect, steps: Steps[T], kept: Kept, *, reading: bool, allowed_s: float | None
) -> T:
    """Run the steps once: an auto-committed statement before the transaction, all others within it."""
    try:
        commands = next(steps)
        if commands and isinstance(commands[0], Alone):
            if kept.reply is None:
                kept.reply = _alone(engine, commands[0])
            commands = steps.send([kept.reply])
    except StopIteration as end:
        return cast(T, end.value)
    piped = engine.dialect.driver in PIPELINING and allowed_s is None and Command.together(commands)
    with (
        _transaction(engine, dialect, reading=reading) as connection,
        nullcontext() if allowed_s is None else lengthened(connection, allowed_s),
    ):
        first = True
        try:
            while True:
                replies = _carried_out(connection, cast("Sequence[Command]", commands), first=first and piped)
                ended = isinstance(commands, Last)
                commands, first = steps.send(replies), False
                assert not ended, WENT_ON
        except StopIteration as end:
            return cast(T, end.value)


def streamed(engine: Engine, statements: Iterable[Executable]) -> Iterator[tuple[Any, ...]]:
    """Stream the rows of large reads, in one transaction. Raises SQLAlchemy's errors."""
    with engine.connect() as connection, lengthened(connection, LONG_STATEMENT_TIMEOUT_S):
        if engine.dialect.name == "postgresql":
            # All rows are read: a plan optimised for the first rows would walk whole indexes.
            connection.exec_driver_sql("SET LOCAL cursor_tuple_fraction = 1")
        for statement in statements:
            with connection.execute(statement, execution_options=STREAMED) as rows:
                yield from rows


def url_of(database_url: str) -> URL:
    """The parsed URL. Raises InvalidRequest if it is invalid, or its database is not supported."""
    url = parsed(database_url)
    if url.get_backend_name() not in SUPPORTED:
        supported = ", ".join(SUPPORTED)
        raise InvalidRequest("database_url", f"{url.get_backend_name()} is not supported; use {supported}")
    if url.get_backend_name() in MYSQL and "host" in url.query:
        raise InvalidRequest("database_url", "names several hosts, which only PostgreSQL's driver takes")
    own = [name for name in OWN_PARAMETERS if name in url.query]
    if own and url.get_backend_name() == "sqlite":
        raise InvalidRequest("database_url", f"{own[0]} is a parameter of a server's URL, not of SQLite's")
    return url


def shown(database_url: str) -> str:
    """The URL for people and logs: passwords are hidden, those in its query too."""
    url = parsed(database_url)
    query = {name: "***" if "pass" in name else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


USUAL = Waits()
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
"""SQLAlchemy's names, by kind of database; SQLite's URL names its own."""


def engine_of(database_url: str, usual: Waits = USUAL, *, at_most: Waits | None = None, keep: bool = True) -> Engine:
    """An engine for a database URL. Servers are reached with bounded waits (`waits`).

    `usual`: the waits that apply where the URL sets none. `at_most`: upper limits of what the URL sets; unset: none.
    `keep`: whether connections are kept in a pool. Raises InvalidRequest for an unsupported database or an invalid
    parameter.
    """
    url = url_of(database_url)
    waits = waits_of(url, usual, at_most)
    bounds = Bounds(waits, cuts=url.get_backend_name() != "sqlite")
    made = create_engine(server_url(url, DRIVERS), **engine_options(url, bounds, keep=keep))
    bind(made, bounds)
    return made
