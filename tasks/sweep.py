"""`billing.sweep`: applies intents whose message never came, and closes holds nobody closed (semantics §8, §9)."""

import structlog
from celery import shared_task

from tasks import metrics
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")


@shared_task(bind=True, base=LedgerTask, name="billing.sweep")
def sweep(self: LedgerTask) -> None:
    """Intents first: a session with one is no forgotten hold."""
    outcomes = self.patiently(self.ledger.sweep_intents)
    expired = self.patiently(self.ledger.expire_holds)
    for outcome, count in outcomes.items():
        metrics.JOBS.labels(self.name, outcome.value).inc(count)
    metrics.SWEPT.labels("intents").inc(outcomes.total())
    metrics.SWEPT.labels("expired_holds").inc(expired)
    if outcomes or expired:
        log.info("swept", intents={each.value: count for each, count in outcomes.items()}, expired_holds=expired)
