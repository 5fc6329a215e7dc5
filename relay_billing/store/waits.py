"""How long the database may take: for a statement, for a connection, and for all attempts of a call together.

The server ends a statement that takes too long (`statement_timeout`); the kernel ends a connection whose peer is gone
(`tcp_user_timeout`, keep-alives). Neither helps if the peer's kernel acknowledges but its process does not answer, so
the client has its own deadline (`connections`). All these limits, in seconds, are defined here.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from sqlalchemy import URL

from relay_billing.domain.errors import BillingUnavailable, InvalidRequest

STATEMENT_TIMEOUT_S = 10.0
"""For one statement of a call. The slowest one takes 0.1 s; the rest allows for locks and slow disks."""
CALL_TIMEOUT_S = 15.0
"""For one transaction with all its attempts: within about this time a hold is taken, refused or unavailable.

A connection that is opened near its end still has `SHORTEST_CONNECT_S` for each host.
"""
LONG_STATEMENT_TIMEOUT_S = 600.0
"""For one statement that reads or removes many rows: a reconciliation, the purge. Nobody waits for these."""
MIGRATION_TIMEOUT_S = 3_600.0
"""For one statement of a migration, which may build an index of a large table, or wait for a lock on it."""
CONNECT_TIMEOUT_S = 5
"""For connecting to each host of a URL."""
SHORTEST_CONNECT_S = 2
"""libpq's shortest time-out for connecting."""
POOL_TIMEOUT_S = 5
"""For a connection of the pool while all are in use."""
GRACE_S = 1.0
"""The client waits this much longer than the server's time-out, so that a live server's own error comes first."""
LEAST_WAIT_S = 0.5
"""For a single wait when its call's time is over: a live server needs far less for a rollback."""
REFUSAL_S = 1.0
"""After a call that got no answer in its whole time, other calls are refused immediately for this long.

Otherwise the batches that wait would time out one after the other: with a thousand calls, for minutes.
"""
TCP_OPTIONS: dict[str, int] = {
    # Milliseconds that sent data may stay unacknowledged: detects a lost host while a statement is sent.
    "tcp_user_timeout": 10_000,
    # Seconds: detect a lost host while nothing is sent, after 5 + 3 times 2.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""libpq's parameters; each applies unless the URL sets it."""
OWN_PARAMETERS = ("statement_timeout", "call_timeout")
"""Our own parameters of the database URL, in seconds; libpq does not know them."""
SHORTEST_S, LONGEST_S = 0.1, 86_400.0

_DEADLINE: ContextVar[float] = ContextVar("relay_billing_deadline", default=math.inf)
"""Deadline of the current call of this thread or task, by the monotonic clock; infinite: there is no call."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Time limits for the database, in seconds: for a statement, for a call, for connecting to each host."""

    statement_s: float = STATEMENT_TIMEOUT_S
    call_s: float = CALL_TIMEOUT_S
    connect_s: int = CONNECT_TIMEOUT_S

    @property
    def statement_ms(self) -> int:
        """`statement_s` as PostgreSQL's `statement_timeout`."""
        return math.ceil(self.statement_s * 1000)


class Bounds:
    """The waits of one engine, and when a call last got no answer from its database."""

    def __init__(self, waits: Waits, *, cuts: bool) -> None:
        """`cuts`: the engine's connections end their waits at the call's deadline; else attempts are not cut short."""
        self.waits, self.cuts = waits, cuts
        self._gave_up_at = -math.inf

    @contextmanager
    def call(self, allowed_s: float | None = None) -> Iterator[None]:
        """All attempts within the block share one deadline; a nested call keeps the outer one's.

        `allowed_s`: seconds that one statement may take, which may extend the deadline; unset: `waits.call_s` is the
        deadline. Raises BillingUnavailable immediately if another call has just got no answer.
        """
        if _DEADLINE.get() < math.inf:
            yield
            return
        now = time.monotonic()
        if now - self._gave_up_at < REFUSAL_S:
            raise BillingUnavailable("the database has just given no answer: nothing was sent")
        token = _DEADLINE.set(now + max(self.waits.call_s, allowed_s or 0.0))
        try:
            yield
        finally:
            _DEADLINE.reset(token)

    def room(self, took_s: float, pause_s: float) -> bool:
        """Whether another attempt fits into the call after a pause, if it takes as long as the last one (`took_s`)."""
        return time.monotonic() + pause_s + (0.0 if self.cuts else took_s) < _DEADLINE.get()

    def give_up(self) -> None:
        """Record that a call got no answer in its whole time."""
        self._gave_up_at = time.monotonic()


def deadline_of_wait(allowed_s: float) -> float:
    """When one wait for the server must end, by the monotonic clock: after `allowed_s`, or with its call."""
    now = time.monotonic()
    return max(now + LEAST_WAIT_S, min(now + allowed_s, _DEADLINE.get()))


def seconds_of_wait(allowed_s: float) -> float:
    """As `deadline_of_wait`, counted from now."""
    return deadline_of_wait(allowed_s) - time.monotonic()


def connect_timeout_s(configured_s: int, hosts: int) -> int:
    """The time-out for connecting to each host, in whole seconds: as configured, or what the call has left."""
    left = _DEADLINE.get() - time.monotonic()
    return configured_s if left >= configured_s * hosts else max(SHORTEST_CONNECT_S, int(left / hosts))


def _seconds(url: URL, name: str, default: float) -> float:
    given = url.query.get(name)
    if given is None:
        return default
    try:
        seconds = float(given) if isinstance(given, str) else math.nan
    except ValueError:
        seconds = math.nan
    if not SHORTEST_S <= seconds <= LONGEST_S:
        problem = f"{name} must be from {SHORTEST_S:g} to {LONGEST_S:,.0f} seconds, once, got {given!r}"
        raise InvalidRequest("database_url", problem)
    return seconds


def waits_of(url: URL, usual: Waits, at_most: Waits | None) -> Waits:
    """The waits that a URL sets, limited by `at_most` (None: not limited). Raises InvalidRequest for an invalid value.

    `statement_timeout` and `call_timeout` are ours, `connect_timeout` is libpq's; unset: as `usual`. All in seconds.
    """
    said = Waits(
        _seconds(url, "statement_timeout", usual.statement_s),
        _seconds(url, "call_timeout", usual.call_s),
        max(SHORTEST_CONNECT_S, int(_seconds(url, "connect_timeout", usual.connect_s))),
    )
    if at_most is None:
        return said
    return Waits(
        min(said.statement_s, at_most.statement_s),
        min(said.call_s, at_most.call_s),
        min(said.connect_s, at_most.connect_s),
    )
