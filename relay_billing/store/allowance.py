"""The statement time-out of one connection, and a longer one for transactions that read or remove many rows."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from relay_billing.store.waits import Waits

KEEP_PLANS = "SET LOCAL plan_cache_mode = force_generic_plan"
"""Only for the constant statements, which find rows by key: otherwise PostgreSQL plans lists of ids again on each call,
which took a third of a settle's time. Range queries are better planned for their values."""


def _ms(seconds: float) -> int:
    return Waits(statement_s=seconds).statement_ms


class Allowance:
    """A connection's statement time-out; `connections` and `mysql_connections` mix it into their drivers' classes."""

    allowed_s: float = Waits().statement_s
    """Seconds that the server may take for one statement."""
    pooled: bool = False
    """Whether a pooler may give each transaction another server connection."""
    opening: str = KEEP_PLANS
    """The first statement of a pipelined transaction."""

    def allowing(self, seconds: float) -> str:
        """The statement that sets the server's time-out, for the transaction or, where it is `kept`, the session."""
        return f"SET LOCAL statement_timeout = {_ms(seconds)}"

    def kept(self) -> bool:
        """Whether the setting outlives its transaction."""
        return False

    def allow(self, seconds: float) -> None:
        """Let each statement take up to `seconds` from now on; behind a pooler, each transaction sets it again."""
        self.allowed_s = seconds
        if self.pooled:
            kept = f"set_config('statement_timeout', '{_ms(seconds)}', true)"
            self.opening = f"SELECT set_config('plan_cache_mode', 'force_generic_plan', true), {kept}"


@contextmanager
def lengthened(connection: Connection, seconds: float) -> Iterator[None]:
    """Within the block, in one transaction, set the statement time-out of server and client to `seconds`.

    Does nothing on other connections, such as SQLite's.
    """
    raw = connection.connection.driver_connection
    if not isinstance(raw, Allowance):
        yield
        return
    before = raw.allowed_s
    connection.exec_driver_sql(raw.allowing(seconds))
    raw.allow(seconds)
    try:
        yield
    finally:
        raw.allow(before)
        if raw.kept() and not connection.invalidated and not connection.closed:
            connection.exec_driver_sql(raw.allowing(before))
