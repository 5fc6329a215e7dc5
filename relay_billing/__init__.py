"""Prepaid quota for LLM relays: hold before the call, charge after it, exactly once."""

from relay_billing.aio import AsyncBillingClient
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
from relay_billing.domain.jobs import Outcome, RefundJob, SettleJob
from relay_billing.domain.policy import Policy
from relay_billing.domain.sessions import BillingSession, PreConsume
from relay_billing.ledger import Ledger

__all__ = [
    "AsyncBillingClient",
    "BillingClient",
    "BillingError",
    "BillingSession",
    "BillingUnavailable",
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
