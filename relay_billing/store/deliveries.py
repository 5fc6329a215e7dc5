"""Statements on the counts of deliveries that may have killed their worker."""

from sqlalchemy import delete, select

from relay_billing.schema import billing_deliveries
from relay_billing.store.commands import Command
from relay_billing.store.dialects import Dialect

_C = billing_deliveries.c


def count(dialect: Dialect, key: str, now_ms: int) -> Command:
    """Count one more delivery; `counted` reads the count."""
    insert = dialect.insert(billing_deliveries).values(fingerprint=key, deliveries=1, last_at=now_ms)
    again = {"deliveries": _C.deliveries + 1, "last_at": now_ms}
    return Command(insert.on_conflict_do_update(index_elements=[_C.fingerprint], set_=again))


def counted(key: str) -> Command:
    """How often it was delivered."""
    return Command(select(_C.deliveries).where(_C.fingerprint == key))


def forget(key: str) -> Command:
    """Remove the count of a job or message that is dealt with."""
    return Command(delete(billing_deliveries).where(_C.fingerprint == key))
