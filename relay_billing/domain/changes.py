"""What one decision changes."""

from dataclasses import dataclass

from relay_billing.domain.entries import Movement
from relay_billing.domain.sessions import BillingSession


@dataclass(frozen=True, slots=True)
class Usage:
    """What a settle adds to `users.used_quota`; `users.request_count` grows by one."""

    user_id: int
    quota: int


@dataclass(frozen=True, slots=True)
class SubscriptionTurn:
    """A subscription's new reset times and status (semantics §7)."""

    subscription_id: int
    last_reset_time: int
    next_reset_time: int
    status: str


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that one decision changes, in one transaction."""

    session: BillingSession | None = None
    movements: tuple[Movement, ...] = ()
    usage: Usage | None = None
    turn: SubscriptionTurn | None = None
