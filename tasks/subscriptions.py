"""`billing.subscriptions`: begins due periods, and ends subscriptions whose end has passed (semantics §7)."""

import structlog
from celery import shared_task

from tasks import metrics
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")


@shared_task(bind=True, base=LedgerTask, name="billing.subscriptions")
def subscriptions(self: LedgerTask) -> None:
    """Begin every due period, and end every subscription whose end has passed."""
    changed = self.patiently(self.ledger.reset_subscriptions)
    metrics.SWEPT.labels("subscriptions").inc(changed)
    if changed:
        log.info("subscriptions turned", changed=changed)
