"""`billing.caches`: brings the movements that were committed to a relay's caches, each at most once."""

import redis
import structlog
from celery import shared_task

from relay_billing.domain.jobs import CACHES_TASK
from relay_billing.flows import cache_deltas as flow
from relay_billing.flows.cache_deltas import Claim
from tasks import metrics
from tasks.base import LedgerTask
from tasks.relay_cache import Applied, RelayCache

log = structlog.get_logger("tasks")

BATCH = 500
MAX_BATCHES = 20
"""Most batches that one run applies; the next one goes on."""


def _report_given_up(claim: Claim) -> None:
    metrics.CACHE_DELTAS.labels("late").inc(claim.late)
    metrics.CACHE_DELTAS.labels("uncertain").inc(len(claim.uncertain))
    if claim.late:
        log.warning("deltas for the relay's caches came too late and were skipped", deltas=claim.late)
    for each in claim.uncertain:
        log.warning(
            "nobody knows whether the relay's cache has this delta; it is not applied again",
            account=f"{each.account_type} {each.account_id}",
            amount=each.amount,
        )


def _report(claim: Claim, applied: Applied) -> None:
    metrics.CACHE_DELTAS.labels("applied").inc(len(applied.values))
    metrics.CACHE_DELTAS.labels("absent").inc(applied.absent)
    metrics.CACHE_DELTAS.labels("refused").inc(len(applied.refused))
    if applied.refused:
        log.warning("the relay's caches refused deltas", caches=len(applied.refused), first=applied.refused[0])
    gaps = {
        account: value - claim.balances[account]
        for account, value in applied.values.items()
        if account in claim.balances and value != claim.balances[account]
    }
    metrics.CACHE_DIFFERENCES.inc(len(gaps))
    if gaps:
        kind, of = worst = max(gaps, key=lambda each: abs(gaps[each]))
        log.warning(
            "cached balances differ from the database",
            caches=len(gaps),
            of=len(applied.values),
            worst=f"{kind} {of}",
            difference=gaps[worst],
        )


def _drain(task: LedgerTask, cache: RelayCache) -> None:
    for _ in range(MAX_BATCHES):
        claim = task.patiently(task.ledger.run, flow.claim, BATCH)
        _report_given_up(claim)
        if not claim.deltas:
            return
        _report(claim, cache.apply(claim.deltas, claim.keys))
        task.patiently(task.ledger.run, flow.close, [each.id for each in claim.deltas])


@shared_task(bind=True, base=LedgerTask, name=CACHES_TASK)
def caches(self: LedgerTask) -> None:
    """Apply what waits: claim, commit, apply, remove. Claims nothing while Redis is away."""
    settings = self.settings
    if not settings.new_api_redis_url:
        return
    try:
        with RelayCache(settings.new_api_redis_url, settings.new_api_crypto_secret.get_secret_value()) as cache:
            cache.ping()
            _drain(self, cache)
    except redis.RedisError as error:
        # What was claimed is counted as uncertain, by a later run.
        log.warning("the relay's Redis is away", error=str(error))
