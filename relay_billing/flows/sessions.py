"""Lists of sessions: read by index, bounded."""

from dataclasses import dataclass

from sqlalchemy import func, select

from relay_billing.domain import checks
from relay_billing.domain.sessions import BillingSession, State
from relay_billing.flows.context import Context
from relay_billing.schema import billing_sessions, in_state
from relay_billing.store.commands import Command, Steps
from relay_billing.store.rows import session_of

MAX_LISTED = 10_000
"""Most sessions of one list."""


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Selects sessions; an unset field filters nothing. Amounts are quota, times Unix milliseconds."""

    user_id: int | None = None
    token_id: int | None = None
    state: State | None = None
    before_ms: int | None = None
    """Opened before then."""
    after_ms: int | None = None
    """Opened then or later."""
    at_least: int | None = None
    """Charged at least this much; a session that is not charged holds at least this much."""
    limit: int = 100
    """1 to 10,000; the newest sessions come first."""


def find(context: Context, chosen: SessionFilter) -> Steps[list[BillingSession]]:
    """The sessions that match a filter, newest first. Raises InvalidRequest for a limit out of range."""
    checks.whole("limit", chosen.limit, 1, MAX_LISTED)
    s = billing_sessions.c
    rows = select(billing_sessions)
    if chosen.user_id is not None:
        rows = rows.where(s.user_id == chosen.user_id)
    if chosen.token_id is not None:
        rows = rows.where(s.token_id == chosen.token_id)
    if chosen.state is not None:
        rows = rows.where(in_state(chosen.state.value))
    if chosen.before_ms is not None:
        rows = rows.where(s.created_at < chosen.before_ms)
    if chosen.after_ms is not None:
        rows = rows.where(s.created_at >= chosen.after_ms)
    if chosen.at_least is not None:
        rows = rows.where(func.coalesce(s.actual_quota, s.pre_consumed_quota) >= chosen.at_least)
    newest = rows.order_by(s.created_at.desc(), s.request_id).limit(chosen.limit)
    (found,) = yield [Command(newest)]
    return [session_of(row) for row in found.rows]
