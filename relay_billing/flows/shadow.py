"""What a shadow has judged, for the comparison with what the relay has charged itself (semantics §13)."""

from sqlalchemy import Executable, and_, select

from relay_billing.domain.account_type import AccountType
from relay_billing.flows.context import BATCH, Context
from relay_billing.schema import billing_ledger, billing_sessions, billing_shadow_refusals
from relay_billing.store.commands import Steps
from relay_billing.store.retention import purge_rows

_S, _C, _R = billing_sessions.c, billing_ledger.c, billing_shadow_refusals.c


def judged(since_ms: int) -> tuple[Executable, Executable, Executable]:
    """Statements that read what was judged since then (Unix milliseconds), each row once.

    The shadow's sessions; what it refused; and its movements of wallets that were below 0 already.
    """
    sessions = select(
        _S.request_id,
        _S.user_id,
        _S.state,
        _S.actual_quota,
        _S.source,
        _S.user_quota,
        _S.subscription_amount_total,
        _S.subscription_amount_used_after_pre_consume,
        _S.subscription_pre_consumed,
        _S.created_at,
    ).where(_S.shadow, _S.created_at >= since_ms)
    refusals = select(_R.request_id, _R.user_id, _R.funds, _R.created_at).where(_R.created_at >= since_ms)
    below = and_(_C.account_type == AccountType.WALLET.value, _C.balance_after - _C.amount < 0)
    overdrawn = select(_C.request_id).where(_C.shadow, below, _C.created_at >= since_ms)
    return sessions, refusals, overdrawn


def purge(context: Context, before_ms: int) -> Steps[int]:
    """Remove a batch of refusals older than `before_ms` (Unix milliseconds); return how many."""
    return purge_rows(_R.id, _R.created_at < before_ms, BATCH)
