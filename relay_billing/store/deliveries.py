"""Statements on the counts of deliveries that may have killed their worker."""

from sqlalchemy import delete, select

from relay_billing.schema import billing_deliveries
from relay_billing.store.commands import Command
from relay_billing.store.dialects import Dialect

_C = billing_deliveries.c


def count(dialect: Dialect, key: str, now_ms: int) -> Command:
    """Count one more delivery; `counted` reads the count."""
    row = {"fingerprint": key, "deliveries": 1, "last_at": now_ms}
    again = {"deliveries": _C.deliveries + 1, "last_at": now_ms}
    return dialect.upsert(_C.fingerprint, lambda _: again, [row])


def counted(key: str) -> Command:
    """How often it was delivered."""
    return Command(select(_C.deliveries).where(_C.fingerprint == key))


def forget(key: str) -> Command:
    """Remove the count of a job or message that is dealt with."""
    return Command(delete(billing_deliveries).where(_C.fingerprint == key))
