"""`billing.purge`: removes what was closed long ago, and carries its sum forward (semantics §10)."""

import time

import structlog
from celery import shared_task

from tasks import metrics
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")

DAY_S = 86_400


@shared_task(bind=True, base=LedgerTask, name="billing.purge")
def purge(self: LedgerTask) -> None:
    """Remove sessions older than the setting `retention_days`."""
    days = self.books.open()[1].retention_days
    removed = self.patiently(lambda: self.ledger.purge(days * DAY_S))
    metrics.SWEPT.labels("purged_sessions").inc(removed)
    told = self.patiently(lambda: self.ledger.purge_webhooks(int((time.time() - days * DAY_S) * 1000)))
    metrics.SWEPT.labels("purged_webhooks").inc(told)
    if removed:
        log.info("purged", sessions=removed, older_than_days=days)
