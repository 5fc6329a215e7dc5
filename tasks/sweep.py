"""`billing.sweep`: applies intents whose message never came, and closes holds nobody closed (semantics §8, §9)."""

import structlog
from celery import shared_task

from tasks import metrics, rejects
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")


@shared_task(bind=True, base=LedgerTask, name="billing.sweep")
def sweep(self: LedgerTask) -> None:
    """Intents first: a session with one is no forgotten hold."""
    outcomes = self.patiently(lambda: self.ledger.sweep_intents(lambda answer: self.count(self.name, answer, None)))
    expired = self.patiently(self.ledger.sweep_holds)
    metrics.count_expired(expired, self.ledger.policy.hold_expiry)
    rejected = rejects.drain(self)
    metrics.SWEPT.labels("rejected_messages").inc(rejected)
    metrics.SWEPT.labels("intents").inc(outcomes.total())
    if outcomes or expired.holds or rejected:
        intents = {each.value: count for each, count in outcomes.items()}
        log.info("swept", intents=intents, expired_holds=expired.holds, rejected_messages=rejected)
