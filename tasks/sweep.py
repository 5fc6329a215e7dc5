"""`billing.sweep`: applies intents and strays whose message was lost, closes expired holds (semantics §5, §8, §9)."""

import structlog
from celery import shared_task
from kombu.exceptions import OperationalError

from relay_billing.domain.dead_letters import LetterReason
from relay_billing.domain.outcomes import Answer, Outcome
from relay_billing.flows import heartbeats, strays, sweeps
from tasks import dead_queue, metrics, topology
from tasks.job_task import JobTask

log = structlog.get_logger("tasks")


def _keep_broker_in_order(task: JobTask) -> int:
    """Declare missing exchanges and bindings, and empty the dead queue; return how many messages it had."""
    with task.app.connection_for_write() as connection:
        known = (*connection.connection_errors, *connection.channel_errors, OperationalError)
        try:
            # Tries once; opening a channel first would retry until the broker is back.
            connection.connect()
            topology.restore(connection)
            return dead_queue.drain(task, connection)
        except known as error:
            # Intents, holds and strays are swept already, and the next sweep tries this again.
            log.warning("the broker can't be kept in order", error=f"{type(error).__name__}: {error}")
            return 0


@shared_task(bind=True, base=JobTask, name="billing.sweep")
def sweep(self: JobTask) -> None:
    """Sweep intents, then expired holds: a session with an intent is not expired. Then strays and the broker."""

    def count(answer: Answer) -> None:
        self.count(self.name, answer, None)
        if answer.outcome is Outcome.UNKNOWN_SESSION:
            # The transaction that judged it has kept the letter.
            metrics.DEAD_LETTERS.labels(LetterReason.UNKNOWN_SESSION.value).inc()

    outcomes = self.patiently(self.ledger.sweep, sweeps.apply_intents, count)
    expired = self.patiently(self.ledger.sweep_holds)
    metrics.count_expired(expired, self.ledger.policy.hold_expiry)
    found = self.patiently(self.ledger.sweep, strays.sweep, count)
    self.patiently(self.ledger.run, heartbeats.remember, heartbeats.SWEEP)
    rejected = _keep_broker_in_order(self)
    metrics.SWEPT.labels("rejected_messages").inc(rejected)
    metrics.SWEPT.labels("intents").inc(outcomes.total())
    metrics.SWEPT.labels("strays").inc(found.total())
    if outcomes or found or expired.holds or rejected:
        intents = {each.value: count for each, count in outcomes.items()}
        others = {"strays": found.total(), "expired_holds": expired.holds, "rejected_messages": rejected}
        log.info("swept", intents=intents, **others)
