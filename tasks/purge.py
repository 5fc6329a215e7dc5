"""`billing.purge`: removes sessions closed long ago, and carries the sum of their ledger rows on (semantics §10)."""

import time

import structlog
from celery import shared_task

from relay_billing.flows import deliveries, shadow, webhooks
from tasks import metrics
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")

DAY_S = 86_400


@shared_task(bind=True, base=LedgerTask, name="billing.purge")
def purge(self: LedgerTask) -> None:
    """Remove sessions and webhooks closed more than `retention_days` ago, and old counts of deliveries."""
    days = self.settings.retention_days
    removed = self.patiently(self.ledger.purge, days * DAY_S)
    metrics.SWEPT.labels("purged_sessions").inc(removed)
    before_ms = int((time.time() - days * DAY_S) * 1000)
    events = self.patiently(self.ledger.run_in_batches, webhooks.purge, before_ms)
    metrics.SWEPT.labels("purged_webhooks").inc(events)
    refusals = self.patiently(self.ledger.run_in_batches, shadow.purge, before_ms)
    metrics.SWEPT.labels("purged_refusals").inc(refusals)
    counts = self.patiently(self.ledger.run_in_batches, deliveries.purge)
    metrics.SWEPT.labels("purged_deliveries").inc(counts)
    if removed:
        log.info("purged", sessions=removed, older_than_days=days)
