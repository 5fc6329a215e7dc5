"""What goes over the queue: a public wire format (docs/semantics.md §9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from relay_billing.domain import inputs
from relay_billing.domain.errors import InvalidRequest

QUEUE = "billing"
WEBHOOKS_QUEUE = "billing.webhooks"
"""Of deliveries to the operator's webhook, and the name of their task: so that they never delay money."""
SETTLE_TASK = "billing.settle"
REFUND_TASK = "billing.refund"


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


@dataclass(frozen=True, slots=True)
class SettleJob:
    """Charge `actual_quota` for a request (semantics §5). Raises InvalidRequest for a value out of range."""

    request_id: str
    actual_quota: int
    reason: str | None = None

    def __post_init__(self) -> None:
        inputs.request_id(self.request_id)
        inputs.quota("actual_quota", self.actual_quota)
        inputs.reason(self.reason)

    def wire(self) -> dict[str, object]:
        """The job as JSON has it."""
        return {"request_id": self.request_id, "actual_quota": self.actual_quota, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class RefundJob:
    """Give the hold of a request back (semantics §6). Raises InvalidRequest for a value out of range."""

    request_id: str
    reason: str | None = None

    def __post_init__(self) -> None:
        inputs.request_id(self.request_id)
        inputs.reason(self.reason)

    def wire(self) -> dict[str, object]:
        """The job as JSON has it."""
        return {"request_id": self.request_id, "reason": self.reason}


Job = SettleJob | RefundJob


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one job, and what a log line or a dead letter should say of it."""

    job: Job
    outcome: Outcome
    detail: str = ""
    """Why, in words; the park reason begins it."""
    user_id: int | None = None
    at_stake: int = 0
    """Quota that the job would have charged or given back."""
    differs: bool = False
    """A duplicate settle that names another amount: the first one stands."""
    token_error: str | None = None
    """A settle whose token leg could not be done: its token is gone."""
    moved: int = 0
    """Quota that a settle has charged, or that a refund has given back; 0: nothing moved."""
    held_at: int | None = None
    """When the session began, in Unix milliseconds; None: there is none."""
    intended_at: int | None = None
    """When the relay recorded what it wants, in Unix milliseconds; None: it did not."""


def reason_of(answer: Answer) -> str:
    """The reason that a dead letter of this answer carries: the park reason, or the outcome."""
    return answer.detail.partition(":")[0] if answer.outcome is Outcome.PARKED else answer.outcome.value


def task_of(job: Job) -> str:
    """The name of the Celery task that carries `job`."""
    return SETTLE_TASK if isinstance(job, SettleJob) else REFUND_TASK


def parse(task: str, item: object) -> Job:
    """Make a job of one item of a message. Raises InvalidRequest that names the field."""
    if not isinstance(item, Mapping):
        raise InvalidRequest("jobs", f"each must be an object, got {type(item).__name__}")
    fields = {str(key): value for key, value in item.items()}
    request_id = inputs.request_id(fields.pop("request_id", None))
    reason = inputs.reason(fields.pop("reason", None))
    if task == SETTLE_TASK:
        actual = inputs.quota("actual_quota", fields.pop("actual_quota", None))
        inputs.no_unknown(fields, task)
        return SettleJob(request_id, actual, reason)
    inputs.no_unknown(fields, task)
    return RefundJob(request_id, reason)


def check_message(jobs: object) -> Sequence[object]:
    """The items of a message's `jobs`: a list of 1 to 500. Raises InvalidRequest."""
    if not isinstance(jobs, list):
        raise InvalidRequest("jobs", f"must be a list, got {type(jobs).__name__}")
    inputs.batch("jobs", len(jobs))
    return jobs


def summary(jobs: object) -> str:
    """What monitors may show of a message's `jobs`: how many, the first one's id, the total quota of settles.

    Enough to find them, however many there are; anything that is not a job's id or amount is left out.
    """
    items = [each for each in jobs if isinstance(each, Mapping)] if isinstance(jobs, list) else []
    if not items:
        return "no jobs"
    try:
        first = f", first {inputs.request_id(items[0].get('request_id'))}"
    except InvalidRequest:
        first = ""
    amounts = [each["actual_quota"] for each in items if type(each.get("actual_quota")) is int]
    total = f", {sum(amounts)} quota" if amounts else ""
    return f"{len(items)} job{'s' if len(items) > 1 else ''}{first}{total}"
