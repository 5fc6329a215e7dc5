"""Resets and ends due subscriptions, for the periodic job (semantics §7)."""

from dataclasses import dataclass

from relay_billing.domain.changes import Changes, SubscriptionTurn
from relay_billing.domain.ownership import Calendar
from relay_billing.domain.subscription_funding import turn_of
from relay_billing.flows.context import BATCH, Context
from relay_billing.store.commands import Steps
from relay_billing.store.due import load_due_subscriptions
from relay_billing.store.writes import write


@dataclass(frozen=True, slots=True)
class Turned:
    """The result of one batch."""

    moved: int
    """Subscriptions whose calendar or status changed."""
    last_id: int | None
    """The next batch begins after this id; None: this was the last batch."""


def turn(context: Context, after_id: int) -> Steps[Turned]:
    """Begin due periods and end subscriptions whose time is over, in one batch of ids above `after_id`.

    Does nothing where the calendar is somebody else's (semantics §12), nor in shadow, where the relay's own turns them
    (§13).
    """
    if context.policy.shadow or context.policy.subscription_calendar is Calendar.EXTERNAL:
        return Turned(0, None)
    sheet = context.worksheet()
    yield from load_due_subscriptions(sheet, context.dialect.accounts, after_id, BATCH)
    looked_at = sorted(sheet.subscriptions)
    for subscription in list(sheet.subscriptions.values()):
        if not subscription.active(sheet.now):
            times = (subscription.last_reset_time, subscription.next_reset_time)
            sheet.post(Changes(turn=SubscriptionTurn(subscription.id, *times, "expired")))
            continue
        turned, forgotten = turn_of(sheet, subscription)
        if turned is not None and forgotten:
            sheet.post(Changes(movements=forgotten, turn=turned))
    moved = len(sheet.turns)
    yield from write(sheet, context.dialect)
    return Turned(moved, looked_at[-1] if len(looked_at) == BATCH else None)
