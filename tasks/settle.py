"""`billing.settle`: {"jobs": [...]}, 1 to 500 a message (semantics §5)."""

from celery import shared_task

from relay_billing.domain.jobs import SETTLE_TASK
from tasks.job_task import JobTask


@shared_task(bind=True, base=JobTask, name=SETTLE_TASK)
def settle(self: JobTask, *args: object, **message: object) -> None:
    """Charge what requests really used."""
    with self.given_back_on_error():
        self.try_again(self.deal_with(self.name, args, message, came_back=self.came_back))
