"""How long the database may take: for a statement, for a connection, and for all attempts of a call together.

The server ends a statement that takes too long (`statement_timeout`), and the kernel a connection whose peer is gone
(`tcp_user_timeout`, keep-alives). Neither helps where the peer's kernel acknowledges and nobody answers, so the client
has a deadline of its own (`connections`). All of them are here.
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
"""One statement of a call. The slowest of them takes a tenth of a second; the rest is for locks and slow disks."""
CALL_TIMEOUT_S = 15.0
"""One transaction with all its attempts: a relay's hold is taken, refused or unavailable within about this time.

A connection that is being made when it ends has `SHORTEST_CONNECT_S` for each host.
"""
LONG_STATEMENT_TIMEOUT_S = 600.0
"""One statement that reads or removes much: a reconciliation, the purge. Nobody waits for these."""
MIGRATION_TIMEOUT_S = 3_600.0
"""One statement of a migration, which may build an index of a large table, or wait for a lock on it."""
CONNECT_TIMEOUT_S = 5
"""One connection, to each host that a URL names."""
SHORTEST_CONNECT_S = 2
"""The least that libpq knows."""
POOL_TIMEOUT_S = 5
"""A connection of the pool, where others have them all."""
GRACE_S = 1.0
"""What the client waits beyond the server's own time-out: where the server lives, its word comes first."""
LEAST_WAIT_S = 0.5
"""What a single wait is given where its call's time is over: a live server takes a rollback in far less."""
REFUSAL_S = 1.0
"""After a call that had no answer in all its time, others are refused immediately for so long.

Calls that wait for their batch would otherwise wait one after the other: with a thousand of them, for minutes.
"""
TCP_OPTIONS: dict[str, int] = {
    # Milliseconds that sent data may stay unacknowledged: a host that is gone, while a statement is sent.
    "tcp_user_timeout": 10_000,
    # Seconds: the same while nothing is sent, after 5 + 3 times 2.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""libpq's, each where the URL does not say otherwise."""
OWN_PARAMETERS = ("statement_timeout", "call_timeout")
"""Of the database URL, in seconds; libpq does not know them."""
SHORTEST_S, LONGEST_S = 0.1, 86_400.0

_DEADLINE: ContextVar[float] = ContextVar("relay_billing_deadline", default=math.inf)
"""When the call that is under way in this thread or task has to be over, by the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that the database may take."""

    statement_s: float = STATEMENT_TIMEOUT_S
    call_s: float = CALL_TIMEOUT_S
    connect_s: int = CONNECT_TIMEOUT_S

    @property
    def statement_ms(self) -> int:
        """`statement_s` as PostgreSQL's `statement_timeout`."""
        return math.ceil(self.statement_s * 1000)


class Bounds:
    """The waits of one engine, and whether its database has lately let a call wait for nothing."""

    def __init__(self, waits: Waits, *, cuts: bool) -> None:
        """`cuts`: the engine's connections end their waits with the call; else an attempt lasts as long as it likes."""
        self.waits, self.cuts = waits, cuts
        self._gave_up_at = -math.inf

    @contextmanager
    def call(self, allowed_s: float | None = None) -> Iterator[None]:
        """All attempts within the block share one deadline; within another call it is that call's.

        `allowed_s`: for one statement of it; unset: `waits.statement_s`. Raises BillingUnavailable immediately where a
        call has just waited in vain.
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
        """Whether another attempt fits into the call, after one that took so long, and a pause."""
        return time.monotonic() + pause_s + (0.0 if self.cuts else took_s) < _DEADLINE.get()

    def give_up(self) -> None:
        """A call has had no answer in all its time."""
        self._gave_up_at = time.monotonic()


def deadline_of_wait(allowed_s: float) -> float:
    """Until when one wait for the server may last: `allowed_s`, or what the call has left."""
    now = time.monotonic()
    return max(now + LEAST_WAIT_S, min(now + allowed_s, _DEADLINE.get()))


def connect_timeout_s(configured_s: int, hosts: int) -> int:
    """For each host, in whole seconds: as configured, or what the call has left."""
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
    """What a URL says, each value no more than `at_most` has. Raises InvalidRequest for what is no number of seconds.

    `statement_timeout` and `call_timeout` are ours, `connect_timeout` is libpq's; unset: as `usual`.
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
