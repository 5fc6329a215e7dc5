"""`billing.reconcile`: proves that accounts, sessions and ledger agree; repairs nothing (semantics §10)."""

from dataclasses import asdict

import structlog
from celery import shared_task

from relay_billing.domain.webhook_events import MAX_DRIFTS_LISTED
from relay_billing.flows import webhooks
from relay_billing.flows.reconcile import Drift
from relay_billing.ledger import Ledger
from tasks import metrics
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")

MAX_DRIFTS_LOGGED = 100
"""Drifts that one run logs, a line each; it counts them all. `python -m worker reconcile` lists all."""


def _prove(ledger: Ledger) -> tuple[int, list[Drift], int]:
    """How many drifts there are, the first `MAX_DRIFTS_LOGGED` of them, and how many accounts others have changed."""
    found, first, outside = 0, [], 0
    for drift in ledger.findings():
        if drift.outside:
            outside += 1
            continue
        found += 1
        if found <= MAX_DRIFTS_LOGGED:
            first.append(drift)
    return found, first, outside


def _announced(drift: Drift) -> dict[str, object]:
    """What an event says of a drift; one that others have caused is not announced."""
    return {name: value for name, value in asdict(drift).items() if name != "outside"}


@shared_task(bind=True, base=LedgerTask, name="billing.reconcile")
def reconcile(self: LedgerTask) -> None:
    """Log the first drifts, a line each, count all, and announce them."""
    found, first, outside = self.patiently(lambda: _prove(self.ledger))
    metrics.DRIFTS.inc(found)
    for drift in first:
        log.error("drift", what=drift.what, id=drift.id, expected=drift.expected, found=drift.found)
    if found:
        findings = [_announced(each) for each in first[:MAX_DRIFTS_LISTED]]
        self.patiently(self.ledger.run, webhooks.announce_drift, findings, found)
    log.info("reconciled", drifts=found, logged=len(first), outside=outside)
