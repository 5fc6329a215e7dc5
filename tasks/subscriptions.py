"""`billing.subscriptions`: begins due periods, ends subscriptions whose time is over (semantics §7)."""

import structlog
from celery import shared_task

from tasks import metrics
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")


@shared_task(bind=True, base=LedgerTask, name="billing.subscriptions")
def subscriptions(self: LedgerTask) -> None:
    """Move every calendar that has to."""
    changed = self.patiently(self.ledger.reset_subscriptions)
    metrics.SWEPT.labels("subscriptions").inc(changed)
    if changed:
        log.info("subscriptions turned", changed=changed)
