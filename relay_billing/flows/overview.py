"""Totals for metrics and operators: open holds, waiting intents, dead letters, the last reconciliation.

Reads only the partial indexes of open rows, so the cost does not grow with the number of closed sessions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Executable, and_, case, cast, func, select

from relay_billing.domain.sessions import State
from relay_billing.flows.context import Context
from relay_billing.flows.heartbeats import SWEEP
from relay_billing.schema import (
    UNRESOLVED,
    WAITING,
    billing_dead_letters,
    billing_heartbeats,
    billing_reconciliations,
    billing_sessions,
    in_state,
)
from relay_billing.store.commands import Command, Steps


@dataclass(frozen=True, slots=True)
class Open:
    """Count, quota and oldest time of one kind of open item."""

    count: int
    quota: int
    """Quota that is held, or at stake."""
    oldest_at: int | None
    """Unix milliseconds; None: there is none."""

    def age_s(self, now_ms: int) -> float:
        """Seconds since the oldest began; 0 where there is none."""
        return 0.0 if self.oldest_at is None else max(0, now_ms - self.oldest_at) / 1000


@dataclass(frozen=True, slots=True)
class LastReconcile:
    """The last reconciliation of everything: when it ended (Unix milliseconds), and what it found."""

    finished_at: int
    duration_ms: int
    drifts: int
    """Things that did not add up."""
    drift_quota: int
    """Sum of the absolute differences, in quota."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The totals at one moment."""

    at: int
    """Unix milliseconds."""
    holds: Open
    """Sessions that nobody has closed. `oldest_at` leaves out the parked ones: those wait for an operator."""
    parked: int
    """How many of `holds` are parked."""
    intents: Open
    """Recorded settles and refunds that are not applied yet (semantics §9)."""
    dead_letters: Open
    """Dead letters that are not resolved."""
    reconcile: LastReconcile | None
    """None: no full reconciliation has run yet."""
    swept_at: int | None = None
    """When a sweep last finished, in Unix milliseconds; None: never."""


def _quota(column: ColumnElement[int] | ColumnElement[int | None]) -> ColumnElement[int]:
    return cast(func.coalesce(func.sum(column), 0), BigInteger).label("quota")


def _holds() -> Executable:
    """Open holds; the condition must match `ix_billing_sessions_open`. Shadow sessions hold nothing."""
    s = billing_sessions.c
    oldest = func.min(case((s.parked.is_(False), s.created_at))).label("oldest_at")
    parked = func.count(case((s.parked.is_(True), 1))).label("parked")
    columns = (func.count().label("count"), _quota(s.pre_consumed_quota), oldest, parked)
    open_ones = and_(in_state(State.PRECONSUMED.value), s.shadow.is_(False))
    return select(*columns).select_from(billing_sessions).where(open_ones)


def _intents() -> Executable:
    """Waiting intents; the condition must match `ix_billing_sessions_waiting`."""
    s = billing_sessions.c
    # A shadow session's intent waits as any other does, but has nothing at stake.
    quota = _quota(case((s.shadow.is_(False), s.intent_quota)))
    columns = (func.count().label("count"), quota, func.min(s.intent_at).label("oldest_at"))
    return select(*columns).select_from(billing_sessions).where(WAITING)


def _dead_letters() -> Executable:
    """Open dead letters; the condition must match `ix_billing_dead_letters_open`."""
    c = billing_dead_letters.c
    columns = (func.count().label("count"), _quota(c.quota), func.min(c.created_at).label("oldest_at"))
    return select(*columns).select_from(billing_dead_letters).where(UNRESOLVED)


def _last_reconcile() -> Executable:
    """The newest full reconciliation."""
    c = billing_reconciliations.c
    return select(c.finished_at, c.duration_ms, c.drifts, c.drift_quota).order_by(c.id.desc()).limit(1)


def last_sweep() -> Executable:
    """When a sweep last finished, in Unix milliseconds."""
    c = billing_heartbeats.c
    return select(c.at).where(c.name == SWEEP)


def _open(row: Mapping[str, Any]) -> Open:
    return Open(int(row["count"]), int(row["quota"]), None if row["oldest_at"] is None else int(row["oldest_at"]))


def overview(context: Context) -> Steps[Overview]:
    """Read the totals once."""
    asked = (_holds(), _intents(), _dead_letters(), _last_reconcile(), last_sweep())
    held, waiting, letters, proved, swept = (reply.rows for reply in (yield [Command(each) for each in asked]))
    return Overview(
        context.now_ms,
        _open(held[0]),
        int(held[0]["parked"]),
        _open(waiting[0]),
        _open(letters[0]),
        LastReconcile(**{name: int(value) for name, value in proved[0].items()}) if proved else None,
        int(swept[0]["at"]) if swept else None,
    )
