"""The rows of one transaction as they stand while its items are decided in turn, and the sum of their changes."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.accounts import Subscription, Token, Wallet
from relay_billing.domain.changes import Changes, SubscriptionTurn
from relay_billing.domain.dead_letters import Letter
from relay_billing.domain.entries import LedgerEntry, Movement
from relay_billing.domain.errors import ColumnOverflow, UpdateDataError
from relay_billing.domain.limits import ALL_64, Limits, fits
from relay_billing.domain.plans import Plan
from relay_billing.domain.policy import Policy
from relay_billing.domain.refusals import Refusal
from relay_billing.domain.sessions import BillingSession, State


@dataclass(slots=True)
class Worksheet:
    """The rows that a batch has loaded, as they stand after the items decided so far, and the sum of their changes."""

    policy: Policy
    now_ms: int
    limits: Limits = ALL_64
    sessions: dict[str, BillingSession] = field(default_factory=dict)
    wallets: dict[int, Wallet] = field(default_factory=dict)
    tokens: dict[int, Token] = field(default_factory=dict)
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)
    trusted_open: dict[int, int] = field(default_factory=dict)
    """Open trusted sessions by user; loaded only where the policy limits them."""

    states_before: dict[str, State | None] = field(default_factory=dict)
    """Changed sessions, with the state in which each was loaded; None: it is new."""
    deltas: dict[tuple[AccountType, int], int] = field(default_factory=dict)
    usage: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By user: quota used, requests."""
    turns: dict[int, SubscriptionTurn] = field(default_factory=dict)
    entries: list[LedgerEntry] = field(default_factory=list)
    dead_letters: list[Letter] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    """Requests that were refused in shadow (semantics §13)."""

    @property
    def now(self) -> int:
        """Unix seconds, as account tables count time."""
        return self.now_ms // 1000

    def post(self, changes: Changes, *, shadow: bool = False) -> None:
        """Make `changes` part of the worksheet; the next item is decided on what they leave.

        Those of a shadow session leave everything as it is: their movements are written, marked, and not made
        (semantics §13). `shadow` says the same of changes without a session.
        Raises ColumnOverflow if an amount does not fit into its column; then the worksheet is as before.
        """
        self._check_columns(changes)
        if shadow or (changes.session is not None and changes.session.shadow):
            self._write_down(changes)
            return
        if changes.turn is not None:
            self._turn(changes.turn)
        for movement in changes.movements:
            self._move(movement)
        if changes.usage is not None:
            used, requests = self.usage.get(changes.usage.user_id, (0, 0))
            self.usage[changes.usage.user_id] = (used + changes.usage.quota, requests + 1)
            self.wallets[changes.usage.user_id] = self.wallets[changes.usage.user_id].counted(changes.usage.quota)
        if changes.session is not None:
            self._write(changes.session)

    def _write_down(self, changes: Changes) -> None:
        """Keep the session and its own movements. Resets and forfeits explain an account, so they are left out."""
        for movement in changes.movements:
            if movement.note is not None or (movement.amount and movement.session is not None):
                after = self._left(movement) + movement.amount
                self.entries.append(LedgerEntry(movement, after, self.now_ms, shadow=True))
        if changes.session is not None:
            self._write(changes.session)

    def _left(self, movement: Movement) -> int:
        """The balance of the movement's account as it stands; 0 where it is not there."""
        of = movement.account_id
        match movement.account_type:
            case AccountType.WALLET:
                return self.wallets[of].quota if of in self.wallets else 0
            case AccountType.TOKEN:
                return self.tokens[of].remain_quota if of in self.tokens else 0
            case AccountType.SUBSCRIPTION:
                return -self.subscriptions[of].amount_used if of in self.subscriptions else 0

    def _write(self, session: BillingSession) -> None:
        known = self.sessions.get(session.request_id)
        if known is not None and not known.state.may_become(session.state):
            raise UpdateDataError(f"session {session.request_id!r} can't go from {known.state} to {session.state}")
        self.states_before.setdefault(session.request_id, None if known is None else known.state)
        self.sessions[session.request_id] = session
        if session.trusted:
            opened = (session.state is State.PRECONSUMED) - (known is not None and known.state is State.PRECONSUMED)
            self.trusted_open[session.user_id] = self.trusted_open.get(session.user_id, 0) + opened

    def _turn(self, turn: SubscriptionTurn) -> None:
        self.turns[turn.subscription_id] = turn
        self.subscriptions[turn.subscription_id] = replace(
            self.subscriptions[turn.subscription_id],
            last_reset_time=turn.last_reset_time,
            next_reset_time=turn.next_reset_time,
            status=turn.status,
        )

    def _move(self, movement: Movement) -> None:
        if movement.amount == 0 and movement.note is None:
            return
        account = (movement.account_type, movement.account_id)
        self.deltas[account] = self.deltas.get(account, 0) + movement.amount
        self.entries.append(LedgerEntry(movement, self._balance(movement), self.now_ms))

    def explain(self, movement: Movement, balance: int) -> None:
        """Enter a movement that has happened outside: its account's balance, with it, is `balance` already (§12)."""
        self.entries.append(LedgerEntry(movement, balance, self.now_ms))

    def _check_columns(self, changes: Changes) -> None:
        moved: dict[tuple[AccountType, int], int] = {}
        for each in changes.movements:
            account = (each.account_type, each.account_id)
            moved[account] = moved.get(account, 0) + each.amount
        for (account_type, of), amount in moved.items():
            if amount:
                for column, after, limit in self._columns(account_type, of, amount):
                    if not fits(after, limit):
                        raise ColumnOverflow(column, of, after, limit)
        if changes.usage is not None:
            wallet = self.wallets[changes.usage.user_id].counted(changes.usage.quota)
            for column, after, limit in (
                ("users.used_quota", wallet.used_quota, self.limits.usage),
                ("users.request_count", wallet.request_count, self.limits.requests),
            ):
                if not fits(after, limit):
                    raise ColumnOverflow(column, wallet.id, after, limit)

    def _columns(self, account_type: AccountType, of: int, amount: int) -> tuple[tuple[str, int, int], ...]:
        """The columns that `amount` changes: name, what it leaves in them, and what they can hold."""
        limits = self.limits
        match account_type:
            case AccountType.WALLET:
                return (("users.quota", self.wallets[of].quota + amount, limits.wallet),)
            case AccountType.TOKEN:
                token = self.tokens[of].moved(amount)
                remains = ("tokens.remain_quota", token.remain_quota, limits.token)
                return (remains, ("tokens.used_quota", token.used_quota, limits.token_used))
            case AccountType.SUBSCRIPTION:
                used = self.subscriptions[of].amount_used - amount
                return (("user_subscriptions.amount_used", used, limits.subscription),)

    def _balance(self, movement: Movement) -> int:
        """Move the account's row; return the balance this leaves."""
        of, amount = movement.account_id, movement.amount
        match movement.account_type:
            case AccountType.WALLET:
                if amount == 0 and of not in self.wallets:
                    # A note about a user who is gone, or was never known.
                    return 0
                wallet = self.wallets[of]
                self.wallets[of] = wallet.moved(amount)
                return wallet.quota + amount
            case AccountType.TOKEN:
                token = self.tokens[of] = self.tokens[of].moved(amount)
                return token.remain_quota
            case AccountType.SUBSCRIPTION:
                subscription = self.subscriptions[of]
                self.subscriptions[of] = replace(subscription, amount_used=subscription.amount_used - amount)
                return amount - subscription.amount_used

    def funds_of(self, user_id: int) -> int | None:
        """Quota that the user has in all; None: without limit, or there is no such user.

        Of active subscriptions, what is left counts as their rows stand, without a reset.
        """
        left = [each.left for each in self.subscriptions_of(user_id)]
        if user_id not in self.wallets or None in left:
            return None
        return self.wallets[user_id].quota + sum(max(each or 0, 0) for each in left)

    def subscriptions_of(self, user_id: int) -> Iterable[Subscription]:
        """The user's subscriptions that can be used now, in the order in which they are tried (semantics §3.6)."""
        return sorted(
            (each for each in self.subscriptions.values() if each.user_id == user_id and each.active(self.now)),
            key=lambda each: (each.end_time, each.id),
        )
