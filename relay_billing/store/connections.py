"""psycopg connections whose waits are bounded, and that detect a pooler in front of the server."""

import time
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine

from relay_billing.store.allowance import Allowance
from relay_billing.store.libpq import Waiting
from relay_billing.store.opened import opened_by
from relay_billing.store.waits import GRACE_S, Bounds, Waits, connect_timeout_s, deadline_of_wait

T = TypeVar("T")


def _within(connection: Allowance, pgconn: psycopg.pq.abc.PGconn, waiting: Waiting[T]) -> Waiting[T]:
    """The same wait with a deadline. An answer that has arrived is taken before the clock is checked."""
    allowed_s = connection.allowed_s + GRACE_S
    deadline = deadline_of_wait(allowed_s)
    try:
        asked = next(waiting)
        while True:
            ready = yield asked
            asked = waiting.send(ready)
            if time.monotonic() >= deadline:
                # Closes without sending anything: nothing may wait for the server from here on, not even a rollback.
                pgconn.finish()
                raise psycopg.OperationalError(f"no answer in the time that it had, at most {allowed_s:g} s")
    except StopIteration as end:
        value: T = end.value
        return value


class BoundedConnection(Allowance, psycopg.Connection[Any]):
    """A psycopg connection. A wait that gets no answer in time raises OperationalError and closes the connection."""

    def wait(self, gen: Waiting[T], *args: Any, **options: Any) -> T:  # noqa: ANN401
        """Overrides psycopg's method, in which every statement, COMMIT, ROLLBACK and pipeline waits."""
        return super().wait(_within(self, self.pgconn, gen), *args, **options)


class AsyncBoundedConnection(Allowance, psycopg.AsyncConnection[Any]):
    """As `BoundedConnection`, for asyncio."""

    async def wait(self, gen: Waiting[T], *args: Any, **options: Any) -> T:  # noqa: ANN401
        """As `BoundedConnection.wait`."""
        return await super().wait(_within(self, self.pgconn, gen), *args, **options)


def _in_time(waits: Waits, parameters: dict[str, Any]) -> dict[str, Any]:
    """The connection's parameters, with a connect time-out that fits into the current call."""
    hosts = str(parameters.get("host") or "").count(",") + 1
    return parameters | {"connect_timeout": connect_timeout_s(waits.connect_s, hosts)}


def _first(pid: int, waits: Waits, parameters: dict[str, Any]) -> str:
    """The first statement: tests whether the connection is direct, and if so, sets the session's statement time-out.

    A pooler reports an invented process id to its clients. Behind one, no setting of the session may be changed: it
    would stay on the server connection and apply to the next client.
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
    """As `_connected`, for asyncio."""
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
    """Make a psycopg engine open bounded connections. For an async engine, pass its `sync_engine`."""
    opened_by(engine, bounds.waits, _connected, _aconnected)
