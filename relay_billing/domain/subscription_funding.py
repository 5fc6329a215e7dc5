"""Subscriptions as a funding source, and the turn of their calendars (semantics §3.6, §7)."""

from relay_billing.domain import fingerprints, periods
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.accounts import Subscription
from relay_billing.domain.changes import SubscriptionTurn
from relay_billing.domain.choices import SubscriptionOverflow
from relay_billing.domain.entries import EntryKind, Movement
from relay_billing.domain.errors import InsufficientUserQuota
from relay_billing.domain.funding import HoldPlan, Taken
from relay_billing.domain.outcomes import ParkReason
from relay_billing.domain.ownership import Calendar
from relay_billing.domain.parked import Parked
from relay_billing.domain.requests import PreConsume
from relay_billing.domain.sessions import BillingSession
from relay_billing.domain.worksheet import Worksheet


class SubscriptionFunding:
    """Bought allowances, the one that ends first before the others (semantics §3.6, §7)."""

    name = "subscription"
    fallback = "wallet"

    def offered(self, sheet: Worksheet, user_id: int) -> bool:
        """Only with an active subscription."""
        return bool(sheet.subscriptions_of(user_id))

    def plan(self, sheet: Worksheet, request: PreConsume, rich_token: bool) -> HoldPlan:
        """At least 1 is held; never trusted."""
        return HoldPlan(max(request.quota, 1))

    def take(self, sheet: Worksheet, request: PreConsume, plan: HoldPlan) -> Taken:
        """Take the hold from the first active subscription with room, its due reset taken into account."""
        most, final = 0, False
        for subscription in sheet.subscriptions_of(request.user_id):
            turn, forgotten = turn_of(sheet, subscription)
            used = subscription.amount_used - sum(movement.amount for movement in forgotten)
            left = None if subscription.amount_total == 0 else subscription.amount_total - used
            if left is not None and left < plan.hold:
                most = max(most, left)
                final = final or not subscription.allow_wallet_overflow
                continue
            return self._taken(sheet, request, plan, subscription, used + plan.hold, turn, forgotten)
        why = "no active subscription has room" + (", and the wallet may not pay instead" if final else "")
        raise InsufficientUserQuota(request.user_id, self.name, most, plan.hold, why, final=final)

    def _taken(
        self,
        sheet: Worksheet,
        request: PreConsume,
        plan: HoldPlan,
        subscription: Subscription,
        used_after: int,
        turn: SubscriptionTurn | None,
        forgotten: tuple[Movement, ...],
    ) -> Taken:
        bought = sheet.plans.get(subscription.plan_id)
        hold = Movement(
            request.request_id, AccountType.SUBSCRIPTION, subscription.id, EntryKind.PRE_CONSUME, -plan.hold
        )
        remembered: dict[str, object] = {
            "subscription_id": subscription.id,
            "subscription_plan_id": subscription.plan_id,
            "subscription_plan_title": None if bought is None else bought.title,
            "subscription_amount_total": subscription.amount_total,
            "subscription_amount_used_after_pre_consume": used_after,
            "subscription_pre_consumed": plan.hold,
            "period": _period_of(sheet, subscription, turn),
        }
        return Taken((*forgotten, hold), remembered, turn)

    def check_raise(self, sheet: Worksheet, session: BillingSession, extra: int) -> None:
        """Checks nothing: `take_raise` checks the subscription, after the token."""

    def take_raise(
        self, sheet: Worksheet, session: BillingSession, extra: int, kind: EntryKind, step: int
    ) -> tuple[Movement, ...]:
        """Take the rest from the session's own subscription, in the period of the hold."""
        subscription = self._own(sheet, session)
        if subscription is None:
            raise InsufficientUserQuota(session.user_id, self.name, 0, extra, "its subscription is gone")
        if not _same_period(subscription, session):
            why = "its subscription began a new period since the hold"
            raise InsufficientUserQuota(session.user_id, self.name, subscription.left, extra, why)
        if not subscription.has_room(extra):
            raise InsufficientUserQuota(session.user_id, self.name, subscription.left, extra)
        return (Movement(session.request_id, AccountType.SUBSCRIPTION, subscription.id, kind, -extra, step),)

    def settle(self, sheet: Worksheet, session: BillingSession, delta: int) -> tuple[Movement, ...]:
        """Charge or give back; what is above the total is charged as `subscription_overflow` says."""
        subscription = self._exists(sheet, session)
        if session.user_id not in sheet.wallets:
            raise Parked(ParkReason.ACCOUNT_MISSING, f"user {session.user_id} is gone")
        if delta <= 0:
            return self._returned(session, subscription, -delta, EntryKind.SETTLE)
        left = subscription.left
        overflow = sheet.policy.subscription_overflow
        if left is None or delta <= left or overflow is SubscriptionOverflow.OVERDRAW:
            return (self._movement(session, EntryKind.SETTLE, -delta),)
        if overflow is SubscriptionOverflow.REJECT:
            detail = f"subscription {subscription.id} has {left} left, {delta} more is needed"
            raise Parked(ParkReason.SUBSCRIPTION_EXCEEDED, detail)
        if session.preference == "subscription_only" or not subscription.allow_wallet_overflow:
            return (self._movement(session, EntryKind.SETTLE, -delta),)
        filled = max(left, 0)
        rest = Movement(session.request_id, AccountType.WALLET, session.user_id, EntryKind.SETTLE, filled - delta)
        return (self._movement(session, EntryKind.SETTLE, -filled), rest)

    def give_back(self, sheet: Worksheet, session: BillingSession, kind: EntryKind) -> tuple[Movement, ...]:
        """The whole hold goes back, to the period it was taken in."""
        return self._returned(session, self._exists(sheet, session), session.pre_consumed_quota, kind)

    def _returned(
        self, session: BillingSession, subscription: Subscription, quota: int, kind: EntryKind
    ) -> tuple[Movement, ...]:
        """Give `quota` back. What a reset has forgotten already, or would take the use below 0, is taken out again."""
        kept = min(quota, max(subscription.amount_used, 0)) if _same_period(subscription, session) else 0
        return (
            self._movement(session, kind, quota),
            Movement.forfeit(session.request_id, subscription.id, kept - quota),
        )

    def _movement(self, session: BillingSession, kind: EntryKind, amount: int) -> Movement:
        return Movement(session.request_id, AccountType.SUBSCRIPTION, session.subscription_id or 0, kind, amount)

    def _own(self, sheet: Worksheet, session: BillingSession) -> Subscription | None:
        return sheet.subscriptions.get(session.subscription_id or 0)

    def _exists(self, sheet: Worksheet, session: BillingSession) -> Subscription:
        subscription = self._own(sheet, session)
        if subscription is None:
            raise Parked(ParkReason.ACCOUNT_MISSING, f"subscription {session.subscription_id} is gone")
        return subscription


def _period_of(sheet: Worksheet, subscription: Subscription, turn: SubscriptionTurn | None) -> int:
    """What a hold records of the period in which it is taken (semantics §7, §12)."""
    if sheet.policy.subscription_calendar is Calendar.OWN:
        return subscription.last_reset_time if turn is None else turn.last_reset_time
    return fingerprints.fingerprint(
        start_time=subscription.start_time,
        last_reset_time=subscription.last_reset_time,
        next_reset_time=subscription.next_reset_time,
    )


def _same_period(subscription: Subscription, session: BillingSession) -> bool:
    """Whether no reset came since the session's hold (semantics §7).

    Where the calendar is somebody else's, less use than the hold itself shows a reset too: one that left both
    boundaries as they were (semantics §12). Not so in shadow, whose holds are in no account (§13).
    """
    held_there = session.period >= fingerprints.TIMES and not session.shadow
    if held_there and subscription.amount_used < session.pre_consumed_quota:
        return False
    return fingerprints.goes_on(
        session.period,
        start_time=subscription.start_time,
        last_reset_time=subscription.last_reset_time,
        next_reset_time=subscription.next_reset_time,
    )


def turn_of(sheet: Worksheet, subscription: Subscription) -> tuple[SubscriptionTurn | None, tuple[Movement, ...]]:
    """The step that is due in its calendar, and the movement that forgets what was used before it (semantics §7)."""
    bought = sheet.plans.get(subscription.plan_id)
    if bought is None or sheet.policy.subscription_calendar is Calendar.EXTERNAL:
        return None, ()
    period = periods.current(
        bought.quota_reset_period,
        bought.quota_reset_custom_seconds,
        start_time=subscription.start_time,
        last_reset_time=subscription.last_reset_time,
        next_reset_time=subscription.next_reset_time,
        end_time=subscription.end_time,
        now=sheet.now,
        zone=sheet.policy.zone,
    )
    if (period.last_reset_time, period.next_reset_time) == (
        subscription.last_reset_time,
        subscription.next_reset_time,
    ) and not period.due:
        return None, ()
    turn = SubscriptionTurn(subscription.id, period.last_reset_time, period.next_reset_time, subscription.status)
    if not period.due:
        return turn, ()
    return turn, (Movement.reset(subscription.id, period.last_reset_time, subscription.amount_used, sheet.now_ms),)
