"""When periodic work was last done: shows that beat, broker and workers together run it."""

from relay_billing.flows.context import Context
from relay_billing.schema import billing_heartbeats
from relay_billing.store.commands import Steps

SWEEP = "sweep"
"""The name of the sweep's heartbeat."""


def remember(context: Context, name: str) -> Steps[None]:
    """Record that the periodic job `name` was done now."""
    row = {"name": name, "at": context.now_ms}
    yield [context.dialect.upsert(billing_heartbeats.c.name, lambda new: {"at": new["at"]}, [row])]
