"""Where the money of one request comes from. A new source is a class in a file of its own, and a line in FUNDING."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from relay_billing.domain import periods
from relay_billing.domain.accounts import AccountType, Subscription
from relay_billing.domain.changes import ADJUST, SETTLE, Book, Movement, SubscriptionTurn
from relay_billing.domain.errors import InsufficientUserQuota, QueryDataError
from relay_billing.domain.jobs import ParkReason
from relay_billing.domain.policy import SubscriptionOverflow
from relay_billing.domain.sessions import BillingSession, PreConsume


class Parked(Exception):
    """The job can't be applied as things stand; nothing moves (semantics §5)."""

    def __init__(self, reason: ParkReason, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a source means to hold: `hold` quota on funding and token, 0 where `trusted`."""

    hold: int
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """What a source took: its movements, and what the session remembers of it."""

    movements: tuple[Movement, ...]
    remembered: Mapping[str, object] = field(default_factory=dict)
    turn: SubscriptionTurn | None = None


class FundingSource(Protocol):
    """One way to pay. Each method reads the book and returns movements; none of them changes anything."""

    @property
    def name(self) -> str:
        """The word stored as the session's `source`; preferences are `<name>_first` and `<name>_only`."""

    @property
    def fallback(self) -> str | None:
        """The source tried after this one is short, with `<name>_first`; None: none is."""

    def offered(self, book: Book, user_id: int) -> bool:
        """Whether there is anything to try at all; False goes straight to the fallback (semantics §3.2)."""

    def plan(self, book: Book, request: PreConsume, rich_token: bool) -> Plan:
        """Decide the hold, before the token has to carry it; `rich_token`: it is above the trust limit.

        Raises InsufficientUserQuota or QueryDataError.
        """

    def take(self, book: Book, request: PreConsume, plan: Plan) -> Taken:
        """Take the hold, after the token agreed. Raises InsufficientUserQuota."""

    def check_raise(self, book: Book, session: BillingSession, extra: int) -> None:
        """Whether `extra` may be added, before the token is looked at (semantics §4)."""

    def take_raise(self, book: Book, session: BillingSession, extra: int, kind: str, step: int) -> tuple[Movement, ...]:
        """Take `extra` more, after the token agreed (semantics §4). Raises InsufficientUserQuota."""

    def settle(self, book: Book, session: BillingSession, delta: int) -> tuple[Movement, ...]:
        """Charge `delta` more, or give back where it is negative (semantics §5). Raises Parked."""

    def give_back(self, book: Book, session: BillingSession, kind: str) -> tuple[Movement, ...]:
        """Return the whole hold (semantics §6). Raises Parked."""


class WalletFunding:
    """The user's own balance (semantics §3.3, §3.4)."""

    name = "wallet"
    fallback = "subscription"

    def offered(self, book: Book, user_id: int) -> bool:
        """A wallet is always tried."""
        return True

    def plan(self, book: Book, request: PreConsume, rich_token: bool) -> Plan:
        """Refuse an empty or short wallet; a rich one is trusted."""
        self._check(book, request.user_id, request.quota)
        return Plan(0, trusted=True) if rich_token and self._trusted(book, request) else Plan(request.quota)

    def take(self, book: Book, request: PreConsume, plan: Plan) -> Taken:
        """Take the hold from the wallet."""
        before = book.wallets[request.user_id].quota
        movement = Movement(request.request_id, AccountType.WALLET, request.user_id, "pre_consume", -plan.hold)
        return Taken((movement,), {"user_quota": before})

    def check_raise(self, book: Book, session: BillingSession, extra: int) -> None:
        """Refuse an empty or short wallet."""
        self._check(book, session.user_id, extra)

    def take_raise(self, book: Book, session: BillingSession, extra: int, kind: str, step: int) -> tuple[Movement, ...]:
        """Take the rest from the wallet."""
        return (Movement(session.request_id, AccountType.WALLET, session.user_id, kind, -extra, step),)

    def settle(self, book: Book, session: BillingSession, delta: int) -> tuple[Movement, ...]:
        """The wallet pays whatever was used, below 0 if need be."""
        self._exists(book, session)
        return (Movement(session.request_id, AccountType.WALLET, session.user_id, SETTLE, -delta),)

    def give_back(self, book: Book, session: BillingSession, kind: str) -> tuple[Movement, ...]:
        """The whole hold goes back."""
        self._exists(book, session)
        held = session.pre_consumed_quota
        return (Movement(session.request_id, AccountType.WALLET, session.user_id, kind, held),)

    def _check(self, book: Book, user_id: int, needed: int) -> None:
        wallet = book.wallets.get(user_id)
        if wallet is None:
            raise QueryDataError(f"user {user_id} does not exist", 0, needed)
        if wallet.quota <= 0:
            raise InsufficientUserQuota(user_id, self.name, wallet.quota, needed, "the wallet is empty")
        if wallet.quota < needed:
            raise InsufficientUserQuota(user_id, self.name, wallet.quota, needed)

    def _trusted(self, book: Book, request: PreConsume) -> bool:
        policy = book.policy
        if policy.trust_quota == 0 or request.force_pre_consume or request.playground:
            return False
        if book.wallets[request.user_id].quota <= policy.trust_quota:
            return False
        return not policy.trust_max_inflight or book.trusted_open.get(request.user_id, 0) < policy.trust_max_inflight

    def _exists(self, book: Book, session: BillingSession) -> None:
        if session.user_id not in book.wallets:
            raise Parked(ParkReason.ACCOUNT_MISSING, f"user {session.user_id} is gone")


class SubscriptionFunding:
    """Bought allowances, the one that ends first before the others (semantics §3.6, §7)."""

    name = "subscription"
    fallback = "wallet"

    def offered(self, book: Book, user_id: int) -> bool:
        """Only with an active subscription."""
        return bool(book.subscriptions_of(user_id))

    def plan(self, book: Book, request: PreConsume, rich_token: bool) -> Plan:
        """At least 1 is held; never trusted."""
        return Plan(max(request.quota, 1))

    def take(self, book: Book, request: PreConsume, plan: Plan) -> Taken:
        """Take the hold from the first active subscription with room, its due reset taken into account."""
        most = 0
        for subscription in book.subscriptions_of(request.user_id):
            turn, forgotten = turn_of(book, subscription)
            used = subscription.amount_used - sum(movement.amount for movement in forgotten)
            left = None if subscription.amount_total == 0 else subscription.amount_total - used
            if left is not None and left < plan.hold:
                most = max(most, left)
                continue
            return self._taken(book, request, plan, subscription, used + plan.hold, turn, forgotten)
        raise InsufficientUserQuota(request.user_id, self.name, most, plan.hold, "no active subscription has room")

    def _taken(
        self,
        book: Book,
        request: PreConsume,
        plan: Plan,
        subscription: Subscription,
        used_after: int,
        turn: SubscriptionTurn | None,
        forgotten: tuple[Movement, ...],
    ) -> Taken:
        bought = book.plans.get(subscription.plan_id)
        hold = Movement(request.request_id, AccountType.SUBSCRIPTION, subscription.id, "pre_consume", -plan.hold)
        remembered: dict[str, object] = {
            "subscription_id": subscription.id,
            "subscription_plan_id": subscription.plan_id,
            "subscription_plan_title": None if bought is None else bought.title,
            "subscription_amount_total": subscription.amount_total,
            "subscription_amount_used_after_pre_consume": used_after,
            "subscription_pre_consumed": plan.hold,
            "period": subscription.last_reset_time if turn is None else turn.last_reset_time,
        }
        return Taken((*forgotten, hold), remembered, turn)

    def check_raise(self, book: Book, session: BillingSession, extra: int) -> None:
        """Nothing before the token: a subscription is asked after it."""

    def take_raise(self, book: Book, session: BillingSession, extra: int, kind: str, step: int) -> tuple[Movement, ...]:
        """Take the rest from the session's own subscription, in the period of the hold."""
        subscription = self._own(book, session)
        if subscription is None or subscription.last_reset_time != session.period or not subscription.has_room(extra):
            left = 0 if subscription is None else subscription.left or 0
            why = "its subscription has no room, or began a new period since the hold"
            raise InsufficientUserQuota(session.user_id, self.name, left, extra, why)
        return (Movement(session.request_id, AccountType.SUBSCRIPTION, subscription.id, kind, -extra, step),)

    def settle(self, book: Book, session: BillingSession, delta: int) -> tuple[Movement, ...]:
        """Charge or give back; what passes the total goes where `subscription_overflow` says."""
        subscription = self._exists(book, session)
        if session.user_id not in book.wallets:
            raise Parked(ParkReason.ACCOUNT_MISSING, f"user {session.user_id} is gone")
        if delta <= 0:
            return self._returned(session, subscription, -delta, SETTLE)
        left = subscription.left
        overflow = book.policy.subscription_overflow
        if left is None or delta <= left or overflow is SubscriptionOverflow.OVERDRAW:
            return (self._movement(session, SETTLE, -delta),)
        if overflow is SubscriptionOverflow.REJECT:
            detail = f"subscription {subscription.id} has {left} left, {delta} more is needed"
            raise Parked(ParkReason.SUBSCRIPTION_EXCEEDED, detail)
        if session.preference == "subscription_only":
            return (self._movement(session, SETTLE, -delta),)
        filled = max(left, 0)
        rest = Movement(session.request_id, AccountType.WALLET, session.user_id, SETTLE, filled - delta)
        return (self._movement(session, SETTLE, -filled), rest)

    def give_back(self, book: Book, session: BillingSession, kind: str) -> tuple[Movement, ...]:
        """The whole hold goes back, to the period it was taken in."""
        return self._returned(session, self._exists(book, session), session.pre_consumed_quota, kind)

    def _returned(
        self, session: BillingSession, subscription: Subscription, quota: int, kind: str
    ) -> tuple[Movement, ...]:
        """Give `quota` back. What a reset has forgotten already, or would take the use below 0, is taken out again."""
        same_period = subscription.last_reset_time == session.period
        kept = min(quota, max(subscription.amount_used, 0)) if same_period else 0
        forfeit_id = f"forfeit:{session.request_id}"
        forfeit = Movement(forfeit_id, AccountType.SUBSCRIPTION, subscription.id, ADJUST, kept - quota)
        return (self._movement(session, kind, quota), forfeit)

    def _movement(self, session: BillingSession, kind: str, amount: int) -> Movement:
        return Movement(session.request_id, AccountType.SUBSCRIPTION, session.subscription_id or 0, kind, amount)

    def _own(self, book: Book, session: BillingSession) -> Subscription | None:
        return book.subscriptions.get(session.subscription_id or 0)

    def _exists(self, book: Book, session: BillingSession) -> Subscription:
        subscription = self._own(book, session)
        if subscription is None:
            raise Parked(ParkReason.ACCOUNT_MISSING, f"subscription {session.subscription_id} is gone")
        return subscription


def turn_of(book: Book, subscription: Subscription) -> tuple[SubscriptionTurn | None, tuple[Movement, ...]]:
    """The step its calendar has to make now, and the movement that forgets what was used before it (semantics §7)."""
    bought = book.plans.get(subscription.plan_id)
    if bought is None:
        return None, ()
    period = periods.current(
        bought.quota_reset_period,
        bought.quota_reset_custom_seconds,
        start_time=subscription.start_time,
        last_reset_time=subscription.last_reset_time,
        next_reset_time=subscription.next_reset_time,
        end_time=subscription.end_time,
        now=book.now,
        zone=book.policy.zone,
    )
    if (period.last_reset_time, period.next_reset_time) == (
        subscription.last_reset_time,
        subscription.next_reset_time,
    ) and not period.due:
        return None, ()
    turn = SubscriptionTurn(subscription.id, period.last_reset_time, period.next_reset_time, subscription.status)
    if not period.due:
        return turn, ()
    reset_id = f"reset:{subscription.id}:{period.last_reset_time}"
    forgotten = Movement(reset_id, AccountType.SUBSCRIPTION, subscription.id, ADJUST, subscription.amount_used)
    return turn, (forgotten,)


FUNDING: tuple[FundingSource, ...] = (SubscriptionFunding(), WalletFunding())
"""The sources there are; the first one's `_first` is the preference where none, or an unknown one, is given."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A preference, normalised, and the sources it tries in turn."""

    preference: str
    sources: tuple[FundingSource, ...]


def chain_of(preference: str | None, sources: tuple[FundingSource, ...]) -> Chain:
    """Read a preference: `<source>_only` or `<source>_first`; anything else is the first source's (semantics §3.2)."""
    by_name = {source.name: source for source in sources}
    name, _, order = (preference or "").rpartition("_")
    if name not in by_name or order not in ("first", "only"):
        name, order = sources[0].name, "first"
    source = by_name[name]
    after = by_name.get(source.fallback or "") if order == "first" else None
    return Chain(f"{name}_{order}", (source,) if after is None else (source, after))


def source_of(session: BillingSession, sources: tuple[FundingSource, ...]) -> FundingSource:
    """The source that pays for a session. Raises QueryDataError for one that is not registered here."""
    for source in sources:
        if source.name == session.source:
            return source
    raise QueryDataError(f"session {session.request_id!r} is paid by {session.source!r}, which is not registered")
