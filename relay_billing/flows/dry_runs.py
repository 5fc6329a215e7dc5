"""Dry runs: what a hold would be answered."""

from relay_billing.domain import holds
from relay_billing.domain.requests import PreConsume
from relay_billing.domain.sessions import BillingSession
from relay_billing.flows.context import Context
from relay_billing.store import loads
from relay_billing.store.commands import Steps


def would_hold(context: Context, request: PreConsume) -> Steps[BillingSession]:
    """The session that a hold of a checked request would have now. Locks and changes nothing (semantics §3).

    Raises as `Ledger.pre_consume`. The hold itself may be answered differently: others may charge the same accounts.
    """
    sheet = context.worksheet()
    yield from loads.load_for_holds(sheet, context.dialect.accounts, [request], lock=False)
    changes = holds.pre_consume(sheet, request, context.funding)
    assert changes.session is not None
    return changes.session
