"""`billing.sweep`: applies intents whose message never came, and closes holds nobody closed (semantics §8, §9)."""

import structlog
from celery import shared_task

from tasks import metrics, rejects
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")


@shared_task(bind=True, base=LedgerTask, name="billing.sweep")
def sweep(self: LedgerTask) -> None:
    """Intents first: a session with one is no forgotten hold."""
    outcomes = self.patiently(self.ledger.sweep_intents)
    expired = self.patiently(self.ledger.expire_holds)
    for outcome, count in outcomes.items():
        metrics.JOBS.labels(self.name, outcome.value).inc(count)
    rejected = rejects.drain(self)
    metrics.SWEPT.labels("rejected_messages").inc(rejected)
    metrics.SWEPT.labels("intents").inc(outcomes.total())
    metrics.SWEPT.labels("expired_holds").inc(expired)
    if outcomes or expired or rejected:
        intents = {each.value: count for each, count in outcomes.items()}
        log.info("swept", intents=intents, expired_holds=expired, rejected_messages=rejected)
