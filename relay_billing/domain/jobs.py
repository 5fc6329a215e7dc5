"""What goes over the queue: a public wire format (docs/semantics.md §9)."""

from dataclasses import dataclass

from relay_billing.domain import checks

QUEUE = "billing"
CACHES_TASK = "billing.caches"
WEBHOOKS_QUEUE = "billing.webhooks"
"""Queue and name of the task that sends webhooks; a queue of its own, so that webhooks never delay money."""
SETTLE_TASK = "billing.settle"
REFUND_TASK = "billing.refund"


@dataclass(frozen=True, slots=True)
class SettleJob:
    """Charge `actual_quota` for a request (semantics §5). Raises InvalidRequest for a value out of range."""

    request_id: str
    actual_quota: int
    reason: str | None = None

    def __post_init__(self) -> None:
        checks.request_id(self.request_id)
        checks.quota("actual_quota", self.actual_quota)
        checks.reason(self.reason)

    def wire(self) -> dict[str, object]:
        """The job as JSON has it."""
        return {"request_id": self.request_id, "actual_quota": self.actual_quota, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class RefundJob:
    """Give the hold of a request back (semantics §6). Raises InvalidRequest for a value out of range."""

    request_id: str
    reason: str | None = None

    def __post_init__(self) -> None:
        checks.request_id(self.request_id)
        checks.reason(self.reason)

    def wire(self) -> dict[str, object]:
        """The job as JSON has it."""
        return {"request_id": self.request_id, "reason": self.reason}


Job = SettleJob | RefundJob


def task_of(job: Job) -> str:
    """The name of the Celery task that carries `job`."""
    return SETTLE_TASK if isinstance(job, SettleJob) else REFUND_TASK
