"""Counts the deliveries of jobs that may kill their worker, until the job is dealt with (semantics §9)."""

from relay_billing.flows.context import BATCH, Context
from relay_billing.schema import billing_deliveries
from relay_billing.store import deliveries
from relay_billing.store.commands import Steps
from relay_billing.store.retention import purge_rows

KEPT_S = 7 * 86_400
"""Seconds that a count is kept after the last delivery: far longer than any broker takes to redeliver."""


def count(context: Context, key: str) -> Steps[int]:
    """Count one more delivery of a job or message; return the new count."""
    yield [deliveries.count(context.dialect, key, context.now_ms)]
    (found,) = yield [deliveries.counted(key)]
    return int(found.rows[0]["deliveries"])


def forget(context: Context, key: str) -> Steps[None]:
    """Remove the count of a job or message that is dealt with."""
    yield [deliveries.forget(key)]


def purge(context: Context) -> Steps[int]:
    """Remove a batch of counts that have not grown for `KEPT_S`; return how many."""
    c = billing_deliveries.c
    return purge_rows(c.fingerprint, c.last_at < context.now_ms - KEPT_S * 1000, BATCH)
