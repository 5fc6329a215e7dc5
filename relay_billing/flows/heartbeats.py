"""When periodic work was last done: what tells that beat, broker and workers together get anything done."""

from relay_billing.flows.context import Context
from relay_billing.schema import billing_heartbeats
from relay_billing.store.commands import Command, Steps

SWEEP = "sweep"
"""The name under which a sweep that was done is remembered."""


def remember(context: Context, name: str) -> Steps[None]:
    """Remember that this was done now."""
    insert = context.dialect.insert(billing_heartbeats).values(name=name, at=context.now_ms)
    c = billing_heartbeats.c
    yield [Command(insert.on_conflict_do_update(index_elements=[c.name], set_={"at": insert.excluded.at}))]
