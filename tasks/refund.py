"""`billing.refund`: {"jobs": [...]}, 1 to 500 a message (semantics §6)."""

from celery import shared_task

from relay_billing.domain.jobs import REFUND_TASK
from tasks.base import LedgerTask


@shared_task(bind=True, base=LedgerTask, name=REFUND_TASK)
def refund(self: LedgerTask, *args: object, **message: object) -> None:
    """Give holds back."""
    self.carry_out(args, message)
