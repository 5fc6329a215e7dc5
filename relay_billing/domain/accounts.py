"""Rows of the account tables as frozen values. All amounts are quota, all times Unix seconds (semantics §1).

A field with a default is a column that only a relay's own tables have; the default is what holds without it (§12).
"""

from dataclasses import dataclass

ENABLED = 1
"""The one `status` with which a user or a token may take money."""
NEVER = -1
"""An `expired_time` that never comes."""


@dataclass(frozen=True, slots=True)
class Wallet:
    """A user's balance: `users.quota`."""

    id: int
    quota: int
    status: int = ENABLED
    deleted: bool = False
    """Softly: the row is there, with its `deleted_at`."""
    used_quota: int = 0
    request_count: int = 0

    @property
    def refusal(self) -> str | None:
        """Why the user may not take money; None: they may. What is open is settled and refunded all the same (§12)."""
        if self.deleted:
            return f"user {self.id} is deleted"
        return None if self.status == ENABLED else f"user {self.id} is disabled: its status is {self.status}"

    def moved(self, amount: int) -> "Wallet":
        """The wallet after `amount` more, or less, quota."""
        rest = (self.status, self.deleted, self.used_quota, self.request_count)
        return Wallet(self.id, self.quota + amount, *rest)

    def counted(self, used: int) -> "Wallet":
        """The wallet after one more request, which used `used` quota."""
        used, requests = self.used_quota + used, self.request_count + 1
        return Wallet(self.id, self.quota, self.status, self.deleted, used, requests)


@dataclass(frozen=True, slots=True)
class Token:
    """An API key's own limit. With `unlimited_quota` its use is counted all the same, and it is never short."""

    id: int
    user_id: int
    remain_quota: int
    unlimited_quota: bool
    status: int = ENABLED
    deleted: bool = False
    """Softly: the row is there, with its `deleted_at`."""
    expired_time: int = NEVER
    used_quota: int = 0

    def refusal(self, now: int) -> str | None:
        """Why the token may not take money at `now`; None: it may. What is open ends all the same (semantics §12)."""
        if self.deleted:
            return "it is deleted"
        if self.status != ENABLED:
            return f"it is not enabled: its status is {self.status}"
        if self.expired_time != NEVER and self.expired_time <= now:
            return f"it expired at {self.expired_time}"
        return None

    def moved(self, amount: int) -> "Token":
        """The token after `amount` more, or less, of its limit."""
        left, used = self.remain_quota + amount, self.used_quota - amount
        rest = (self.status, self.deleted, self.expired_time)
        return Token(self.id, self.user_id, left, self.unlimited_quota, *rest, used)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A bought allowance. `amount_total` 0: unlimited. A `plan_id` without a row: its use is never reset."""

    id: int
    user_id: int
    plan_id: int
    amount_total: int
    amount_used: int
    status: str
    start_time: int
    end_time: int
    last_reset_time: int
    next_reset_time: int
    allow_wallet_overflow: bool = True
    """Whether the wallet may pay what the subscription can't: its own word, else its plan's, else it may (§12)."""

    def active(self, now: int) -> bool:
        """Whether it can be used at `now`; an ended one can't, whatever its status says (semantics §7)."""
        return self.status == "active" and self.end_time > now

    @property
    def left(self) -> int | None:
        """Quota left, below 0 after an overdraw; None: unlimited."""
        return None if self.amount_total == 0 else self.amount_total - self.amount_used

    def has_room(self, quota: int) -> bool:
        """Whether `quota` more fits (semantics §3.6)."""
        return self.left is None or self.left >= quota
