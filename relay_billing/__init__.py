"""Prepaid quota for LLM relays: hold before the call, charge after it, exactly once."""

from typing import TYPE_CHECKING, Any

from relay_billing.batching.rules import Gathering
from relay_billing.client import BillingClient
from relay_billing.domain.errors import (
    BillingError,
    BillingUnavailable,
    IdempotencyConflict,
    InsufficientUserQuota,
    InvalidRequest,
    PreConsumeTokenQuotaFailed,
    QueryDataError,
    UnknownSession,
    UpdateDataError,
)
from relay_billing.domain.jobs import RefundJob, SettleJob
from relay_billing.domain.outcomes import Outcome
from relay_billing.domain.policy import Policy
from relay_billing.domain.requests import PreConsume
from relay_billing.domain.sessions import BillingSession

if TYPE_CHECKING:
    from relay_billing.aio import AsyncBillingClient
    from relay_billing.ledger import Ledger

__all__ = [
    "AsyncBillingClient",
    "BillingClient",
    "BillingError",
    "BillingSession",
    "BillingUnavailable",
    "Gathering",
    "IdempotencyConflict",
    "InsufficientUserQuota",
    "InvalidRequest",
    "Ledger",
    "Outcome",
    "Policy",
    "PreConsume",
    "PreConsumeTokenQuotaFailed",
    "QueryDataError",
    "RefundJob",
    "SettleJob",
    "UnknownSession",
    "UpdateDataError",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Imported on first use: SQLAlchemy's asyncio support takes a fifth of the import time, the flows of operators a
    # twentieth.
    if name == "AsyncBillingClient":
        from relay_billing.aio import AsyncBillingClient

        return AsyncBillingClient
    if name == "Ledger":
        from relay_billing.ledger import Ledger

        return Ledger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
