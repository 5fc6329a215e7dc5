"""The statement that keeps, with the movements of a transaction, what a relay's caches have to be changed by."""

from collections.abc import Mapping

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.cache_deltas import CACHED
from relay_billing.schema import billing_cache_deltas
from relay_billing.store.commands import Command
from relay_billing.store.dialects import Dialect

ADD_DELTA = billing_cache_deltas.insert()


def kept(dialect: Dialect, deltas: Mapping[tuple[AccountType, int], int], now_ms: int) -> list[Command]:
    """One statement for all cached accounts that moved; none where none did."""
    rows = [
        {"account_type": account_type.value, "account_id": of, "amount": delta, "created_at": now_ms}
        for (account_type, of), delta in sorted(deltas.items())
        if delta and account_type in CACHED
    ]
    return [dialect.many(ADD_DELTA, rows)] if rows else []
