"""The tasks' metrics. No label holds a user, a token, a session or any other unbounded value.

Each process of a worker writes its own files in prometheus_client's multiprocess folder;
`worker/patches/count_files.py` adds them up.
"""

import time

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import Engine, event
from sqlalchemy.pool import QueuePool

from relay_billing.domain.choices import HoldExpiry
from relay_billing.domain.dead_letters import LetterReason
from relay_billing.domain.jobs import REFUND_TASK, SETTLE_TASK, SettleJob, task_of
from relay_billing.domain.outcomes import Answer, Outcome
from relay_billing.flows.sweeps import Expired

SWEEP_TASK = "billing.sweep"
SETTLED, REFUNDED, EXPIRED = "settled", "refunded", "expired"
FAST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0)
"""Buckets from a job that is applied immediately to one that waits until a broker's outage is over."""
SLOW_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 86_400.0)
"""Buckets of whole requests: a model's answer takes seconds to minutes."""

JOBS = Counter("billing_jobs", "Jobs judged, by task and outcome", ["task", "outcome"])
TOKEN_ERRORS = Counter("billing_token_errors", "Settles whose token was gone")
DEAD_LETTERS = Counter("billing_dead_letters", "Jobs kept as dead letters, by reason", ["reason"])
WEBHOOKS = Counter("billing_webhooks", "Events sent to the webhook, by type and what came of it", ["event", "result"])
CACHE_DELTAS = Counter(
    "billing_cache_deltas",
    "Changes of a relay's caches, by what came of them",
    ["result"],
)
CACHE_DIFFERENCES = Counter(
    "billing_cache_differences", "Cached balances that, after our delta, were not what the database says"
)
SWEPT = Counter("billing_swept", "What periodic jobs did", ["what"])
LOST_CONSUMERS = Counter(
    "billing_lost_consumers", "Times a worker was connected, got no messages, and connected anew", ["reason"]
)
DRIFTS = Counter("billing_drifts", "Things that did not add up in a reconciliation")
QUOTA = Counter("billing_quota", "Quota settled, refunded or expired", ["moved"])
POST_TO_APPLIED = Histogram(
    "billing_post_to_applied_seconds", "From the posting of a job to its commit", ["task"], buckets=FAST_S
)
HOLD_TO_APPLIED = Histogram(
    "billing_hold_to_applied_seconds", "From the pre-consume to the commit of what closes it", ["task"], buckets=SLOW_S
)
CONNECTIONS = Gauge(
    "billing_database_connections",
    "Connections of the worker's processes to the database",
    ["state"],
    multiprocess_mode="livesum",
)

for _task in (SETTLE_TASK, REFUND_TASK, SWEEP_TASK):
    for _outcome in Outcome:
        JOBS.labels(_task, _outcome.value)
for _moved in (SETTLED, REFUNDED, EXPIRED):
    QUOTA.labels(_moved)


def count_answer(task: str, answer: Answer, posted_at: int | None) -> None:
    """Count what became of a job. `posted_at`: Unix milliseconds; None: the intent's time is used."""
    JOBS.labels(task, answer.outcome.value).inc()
    if answer.differs:
        JOBS.labels(task, Outcome.CONFLICT.value).inc()
    if answer.outcome in (Outcome.CONFLICT, Outcome.PARKED):
        # The transaction that judged it has kept the letter.
        DEAD_LETTERS.labels(LetterReason.of(answer).value).inc()
    if answer.token_error:
        TOKEN_ERRORS.inc()
    if answer.outcome not in (Outcome.APPLIED, Outcome.LATE):
        return
    QUOTA.labels(SETTLED if isinstance(answer.job, SettleJob) else REFUNDED).inc(answer.moved)
    now, kind = time.time() * 1000, task_of(answer.job)
    asked_at = answer.intended_at if posted_at is None else posted_at
    if asked_at is not None:
        POST_TO_APPLIED.labels(kind).observe(max(0.0, now - asked_at) / 1000)
    if answer.held_at is not None:
        HOLD_TO_APPLIED.labels(kind).observe(max(0.0, now - answer.held_at) / 1000)


def count_expired(closed: Expired, expiry: HoldExpiry) -> None:
    """Count expired holds; where `hold_expiry` is `charge`, their quota counts as settled."""
    SWEPT.labels("expired_holds").inc(closed.holds)
    QUOTA.labels(SETTLED if expiry is HoldExpiry.CHARGE else EXPIRED).inc(closed.quota)


def watch_pool(engine: Engine) -> None:
    """Update the gauge of this process's connections whenever one is taken from the pool, returned or closed."""
    pool = engine.pool
    if not isinstance(pool, QueuePool):
        return

    def changed(*_: object) -> None:
        CONNECTIONS.labels("in_use").set(pool.checkedout())
        CONNECTIONS.labels("idle").set(pool.checkedin())

    for name in ("checkout", "checkin", "close"):
        event.listen(engine, name, changed)
