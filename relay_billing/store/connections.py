"""Connections of psycopg that don't wait for ever, and that find out whether a pooler stands before the server."""

import time
from collections.abc import Generator
from functools import partial
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine, event

from relay_billing.store.allowance import Allowance
from relay_billing.store.waits import GRACE_S, Bounds, Waits, connect_timeout_s, deadline_of_wait

T = TypeVar("T")
Waiting = Generator[Any, Any, T]
"""psycopg's: yields what it waits for, is sent what is ready, returns what came."""


def _within(connection: Allowance, pgconn: psycopg.pq.abc.PGconn, waiting: Waiting[T]) -> Waiting[T]:
    """The same waiting, with an end. What is there is taken before the clock is looked at."""
    allowed_s = connection.allowed_s + GRACE_S
    deadline = deadline_of_wait(allowed_s)
    try:
        asked = next(waiting)
        while True:
            ready = yield asked
            asked = waiting.send(ready)
            if time.monotonic() >= deadline:
                # Closed without a word to the server: nothing that comes later may wait for it, a rollback neither.
                pgconn.finish()
                raise psycopg.OperationalError(f"no answer in the time that it had, at most {allowed_s:g} s")
    except StopIteration as end:
        value: T = end.value
        return value


class BoundedConnection(Allowance, psycopg.Connection[Any]):
    """psycopg's connection. A wait that has no answer in its time ends with OperationalError, and the connection."""

    def wait(self, gen: Waiting[T], *args: Any, **options: Any) -> T:  # noqa: ANN401
        """psycopg's: every statement, COMMIT, ROLLBACK and pipeline waits here."""
        return super().wait(_within(self, self.pgconn, gen), *args, **options)


class AsyncBoundedConnection(Allowance, psycopg.AsyncConnection[Any]):
    """As `BoundedConnection`, for asyncio."""

    async def wait(self, gen: Waiting[T], *args: Any, **options: Any) -> T:  # noqa: ANN401
        """psycopg's."""
        return await super().wait(_within(self, self.pgconn, gen), *args, **options)


def _in_time(waits: Waits, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a connection that a call waits for."""
    hosts = str(parameters.get("host") or "").count(",") + 1
    return parameters | {"connect_timeout": connect_timeout_s(waits.connect_s, hosts)}


def _first(pid: int, waits: Waits, parameters: dict[str, Any]) -> str:
    """The first statement: whether this is the server's own process, and if so, how long its statements may take.

    A pooler makes up the process id that it tells its clients. Behind one no setting of the session may be made, for
    it would stay with the server connection, and be the next client's.
    """
    own = f"pg_backend_pid() = {pid}"
    if "statement_timeout" in str(parameters.get("options", "")):
        return f"SELECT {own}"
    setting = f"set_config('statement_timeout', '{waits.statement_ms}', false)"
    return f"SELECT CASE WHEN {own} THEN {setting} IS NOT NULL ELSE false END"


def _learn(connection: BoundedConnection | AsyncBoundedConnection, waits: Waits, *, own: bool) -> None:
    connection.pooled = not own
    if connection.pooled:
        # A statement that was prepared on one server connection is not there on the next.
        connection.prepare_threshold = None
    connection.allow(waits.statement_s)


def _connected(waits: Waits, *args: Any, **parameters: Any) -> BoundedConnection:  # noqa: ANN401
    """A new connection; the parameters are psycopg's. Raises psycopg's errors."""
    made = BoundedConnection.connect(*args, **_in_time(waits, parameters))
    try:
        made.allowed_s = waits.statement_s
        made.autocommit = True
        row = made.execute(_first(made.info.backend_pid, waits, parameters)).fetchone()
        made.autocommit = False
        _learn(made, waits, own=row is not None and row[0])
    except BaseException:
        made.close()
        raise
    return made


async def _aconnected(waits: Waits, *args: Any, **parameters: Any) -> AsyncBoundedConnection:  # noqa: ANN401
    """As `connected`, for asyncio."""
    made = await AsyncBoundedConnection.connect(*args, **_in_time(waits, parameters))
    try:
        made.allowed_s = waits.statement_s
        await made.set_autocommit(True)
        row = await (await made.execute(_first(made.info.backend_pid, waits, parameters))).fetchone()
        await made.set_autocommit(False)
        _learn(made, waits, own=row is not None and row[0])
    except BaseException:
        await made.close()
        raise
    return made


def bound(engine: Engine, bounds: Bounds) -> None:
    """Have an engine of psycopg make connections like these; of an async engine, its `sync_engine`."""

    def connect(dialect: object, record: object, args: list[Any], parameters: dict[str, Any]) -> object:
        if engine.dialect.is_async:
            parameters["async_creator_fn"] = partial(_aconnected, bounds.waits)
            return None
        return _connected(bounds.waits, *args, **parameters)

    event.listen(engine, "do_connect", connect)
