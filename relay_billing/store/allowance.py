"""How long a statement may take on one connection, and how a transaction that reads or removes much is given longer."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from relay_billing.store.waits import Waits

KEEP_PLANS = "SET LOCAL plan_cache_mode = force_generic_plan"
"""For the constant statements alone, which find everything by key: lists of ids would be planned anew at every call,
which took a third of a settle's time. What looks for ranges is better planned for its values."""


def _ms(seconds: float) -> int:
    return Waits(statement_s=seconds).statement_ms


class Allowance:
    """What a connection knows of its waits; `connections` adds it to psycopg's."""

    allowed_s: float = Waits().statement_s
    """Seconds that the server may take for one statement."""
    pooled: bool = False
    """Whether a pooler may give each transaction another server connection."""
    opening: str = KEEP_PLANS
    """The first statement of a pipelined transaction."""

    def allow(self, seconds: float) -> None:
        """Let each statement from now on take so long; behind a pooler each transaction sets it anew."""
        self.allowed_s = seconds
        if self.pooled:
            kept = f"set_config('statement_timeout', '{_ms(seconds)}', true)"
            self.opening = f"SELECT set_config('plan_cache_mode', 'force_generic_plan', true), {kept}"


@contextmanager
def lengthened(connection: Connection, seconds: float) -> Iterator[None]:
    """Within the block, in one transaction, a statement may take `seconds`, by the server's clock and by the client's.

    On a connection that is not bounded, SQLite's for one, nothing changes.
    """
    raw = connection.connection.driver_connection
    if not isinstance(raw, Allowance):
        yield
        return
    before = raw.allowed_s
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_ms(seconds)}")
    raw.allow(seconds)
    try:
        yield
    finally:
        raw.allow(before)
