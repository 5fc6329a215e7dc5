"""Finds the rows for periodic work: due subscriptions, overdue holds, waiting intents."""

from sqlalchemy import func, or_, select

from relay_billing.domain.plans import Plan
from relay_billing.domain.sessions import State
from relay_billing.domain.worksheet import Worksheet
from relay_billing.schema import EXPIRES_AT, INTENT_AT, WAITING, billing_sessions, in_state
from relay_billing.store import statements
from relay_billing.store.account_statements import AccountStatements
from relay_billing.store.commands import Command, Load
from relay_billing.store.rows import NOTHING, fill_accounts


def load_due_subscriptions(sheet: Worksheet, accounts: AccountStatements, after_id: int, limit: int) -> Load:
    """Lock the next subscriptions that must be reset or ended, in order of id (semantics §7)."""
    c, p = accounts.subscription_table.c, accounts.plan_table.c
    periodic = select(p.id).where(p.quota_reset_period != "never")
    # In a relay's tables times may be NULL, which counts as 0 (semantics §12).
    ends, following = func.coalesce(c.end_time, 0), func.coalesce(c.next_reset_time, 0)
    due = or_(
        ends <= sheet.now,
        (following > 0) & (following <= sheet.now),
        (following == 0) & c.plan_id.in_(periodic),
    )
    rows = accounts.subscriptions.where(c.id > after_id, c.status == "active", due)
    subscriptions, plans = yield [
        Command(statements.locked(rows.order_by(c.id).limit(limit))),
        Command(accounts.plans.where(p.quota_reset_period != "never")),
    ]
    fill_accounts(sheet, NOTHING, subscriptions, NOTHING)
    sheet.plans.update({row["id"]: Plan(**row) for row in plans.rows})


def expired_ids(now_ms: int, limit: int) -> Command:
    """Request ids of holds that nobody closed in time, oldest first, without those locked by others (semantics §8)."""
    c = billing_sessions.c
    where = (in_state(State.PRECONSUMED.value), now_ms > EXPIRES_AT, c.intent.is_(None), c.parked.is_(False))
    rows = select(c.request_id).where(*where).order_by(EXPIRES_AT).limit(limit)
    return Command(rows.with_for_update(key_share=True, skip_locked=True))


def waiting_ids(before_ms: int, limit: int) -> Command:
    """Request ids of intents older than `before_ms`, oldest first, without those locked by others (semantics §9)."""
    c = billing_sessions.c
    where = (WAITING, before_ms > INTENT_AT, c.parked.is_(False))
    rows = select(c.request_id).where(*where).order_by(INTENT_AT).limit(limit)
    return Command(rows.with_for_update(key_share=True, skip_locked=True))
