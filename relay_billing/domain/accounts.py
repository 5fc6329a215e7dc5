"""Rows of the account tables as frozen values. All amounts are quota, all times Unix seconds (semantics §1)."""

from dataclasses import dataclass
from enum import StrEnum


class AccountType(StrEnum):
    """Whose balance a ledger row moves (semantics §10)."""

    WALLET = "wallet"
    SUBSCRIPTION = "subscription"
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class Wallet:
    """A user's balance: `users.quota`."""

    id: int
    quota: int


@dataclass(frozen=True, slots=True)
class Token:
    """An API key's own limit. An unlimited one is counted too, but never short."""

    id: int
    user_id: int
    remain_quota: int
    unlimited_quota: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a subscription was bought as; `quota_reset_period` is a word of semantics §7."""

    id: int
    title: str
    quota_reset_period: str
    quota_reset_custom_seconds: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """A bought allowance; an `amount_total` of 0 is unlimited, a `plan_id` without a row never resets."""

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
        """Usable at `now`: an ended one is not, whatever its status says (semantics §7)."""
        return self.status == "active" and self.end_time > now

    @property
    def left(self) -> int | None:
        """Quota left; None: unlimited. Below 0 after an overdraw."""
        return None if self.amount_total == 0 else self.amount_total - self.amount_used

    def has_room(self, quota: int) -> bool:
        """Whether `quota` more fits (semantics §3.6)."""
        return self.left is None or self.left >= quota
