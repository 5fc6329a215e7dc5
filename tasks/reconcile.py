"""`billing.reconcile`: proves the books, repairs nothing (semantics §10)."""

from dataclasses import asdict

import structlog
from celery import shared_task

from relay_billing.domain.events import MAX_DRIFTS_TOLD
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
    if found:
        first = [asdict(each) for each in found[:MAX_DRIFTS_TOLD]]
        self.patiently(lambda: self.ledger.tell_drift(first, len(found)))
    log.info("reconciled", drifts=len(found))
