"""Rows of the account tables as frozen values. All amounts are quota, all times Unix seconds (semantics §1)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wallet:
    """A user's balance: `users.quota`."""

    id: int
    quota: int


@dataclass(frozen=True, slots=True)
class Token:
    """An API key's own limit. With `unlimited_quota` its use is counted all the same, and it is never short."""

    id: int
    user_id: int
    remain_quota: int
    unlimited_quota: bool


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
