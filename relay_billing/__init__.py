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
from relay_billing.ledger import Ledger

if TYPE_CHECKING:
    from relay_billing.aio import AsyncBillingClient

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
    # Imported when it is asked for: asyncio and SQLAlchemy's part for it take a fifth of the import.
    if name == "AsyncBillingClient":
        from relay_billing.aio import AsyncBillingClient

        return AsyncBillingClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
