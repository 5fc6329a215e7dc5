"""`billing.reconcile`: proves the books, repairs nothing (semantics §10)."""

import structlog
from celery import shared_task

from tasks import metrics
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")


@shared_task(bind=True, base=LedgerTask, name="billing.reconcile")
def reconcile(self: LedgerTask) -> None:
    """Log one line for everything that does not add up."""
    found = self.patiently(self.ledger.reconcile)
    metrics.DRIFTS.inc(len(found))
    for drift in found:
        log.error("drift", what=drift.what, id=drift.id, expected=drift.expected, found=drift.found)
    log.info("reconciled", drifts=len(found))
