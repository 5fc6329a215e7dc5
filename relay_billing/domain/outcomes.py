"""What became of a job (semantics §5, §6)."""

from dataclasses import dataclass
from enum import StrEnum

from relay_billing.domain.jobs import Job


class Outcome(StrEnum):
    """What became of a job (semantics §5, §6)."""

    APPLIED = "applied"
    LATE = "late"
    """A settle after the hold had expired: the whole amount was charged."""
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    PARKED = "parked"
    UNKNOWN_SESSION = "unknown_session"


class ParkReason(StrEnum):
    """Why a job can't be applied as things stand (semantics §5)."""

    IMPLAUSIBLE_AMOUNT = "implausible_amount"
    SUBSCRIPTION_EXCEEDED = "subscription_exceeded"
    ACCOUNT_MISSING = "account_missing"
    COLUMN_OVERFLOW = "column_overflow"
    """A column of the account can't hold the amount (semantics §12)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one job, and what a log line or a dead letter should say of it."""

    job: Job
    outcome: Outcome
    detail: str = ""
    """Why, in words."""
    user_id: int | None = None
    at_stake: int = 0
    """Quota that the job would have charged or given back."""
    differs: bool = False
    """A duplicate settle that names another amount: the first one stands."""
    token_error: str | None = None
    """Why the token leg of a settle was not done: its token is gone. None: it was done, or nothing was due."""
    moved: int = 0
    """Quota that a settle has charged, or that a refund has given back; 0: nothing moved."""
    held_at: int | None = None
    """When the session began, in Unix milliseconds; None: there is none."""
    intended_at: int | None = None
    """When the relay recorded its intent, in Unix milliseconds; None: it recorded none."""
    park_reason: ParkReason | None = None
    """Why it is parked; None: it is not."""
