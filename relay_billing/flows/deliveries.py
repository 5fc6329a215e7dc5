"""How often a job was delivered that may kill its worker: counted, forgotten when it is dealt with (semantics §9)."""

from relay_billing.flows.context import BATCH, Context
from relay_billing.schema import billing_deliveries
from relay_billing.store import deliveries
from relay_billing.store.commands import Steps
from relay_billing.store.retention import purge_rows

KEPT_S = 7 * 86_400
"""How long a count is kept after the last delivery: far above every broker's redelivery."""


def count(context: Context, key: str) -> Steps[int]:
    """Count one more delivery of a job or message; return how many there were."""
    yield [deliveries.count(context.dialect, key, context.now_ms)]
    (found,) = yield [deliveries.counted(key)]
    return int(found.rows[0]["deliveries"])


def forget(context: Context, key: str) -> Steps[None]:
    """What was counted under `key` is dealt with."""
    yield [deliveries.forget(key)]


def purge(context: Context) -> Steps[int]:
    """Remove a batch of counts that have not grown for `KEPT_S`; return how many."""
    c = billing_deliveries.c
    return purge_rows(c.fingerprint, c.last_at < context.now_ms - KEPT_S * 1000, BATCH)
