"""`billing.refund`: {"jobs": [...]}, 1 to 500 a message (semantics §6)."""

from celery import shared_task

from relay_billing.domain.jobs import REFUND_TASK
from tasks.job_task import JobTask


@shared_task(bind=True, base=JobTask, name=REFUND_TASK)
def refund(self: JobTask, *args: object, **message: object) -> None:
    """Give holds back."""
    with self.given_back_on_error():
        self.try_again(self.deal_with(self.name, args, message, came_back=self.came_back))
