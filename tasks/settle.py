"""`billing.settle`: {"jobs": [...]}, 1 to 500 a message (semantics §5)."""

from celery import shared_task

from relay_billing.domain.jobs import SETTLE_TASK
from tasks.base import LedgerTask


@shared_task(bind=True, base=LedgerTask, name=SETTLE_TASK)
def settle(self: LedgerTask, *args: object, **message: object) -> None:
    """Charge what requests really used."""
    self.carry_out(args, message)
