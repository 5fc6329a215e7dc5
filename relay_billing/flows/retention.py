"""Removes sessions closed long ago, and keeps the sum of their ledger rows (semantics §10)."""

from relay_billing.flows.context import BATCH, Context
from relay_billing.store import retention
from relay_billing.store.commands import Steps


def purge(context: Context, before_ms: int) -> Steps[int]:
    """Remove a batch of sessions closed before `before_ms` (Unix milliseconds); return how many."""
    return retention.purge(before_ms, context.now_ms, BATCH)
