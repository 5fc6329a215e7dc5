"""What a relay's cached balance has to be changed by, and how long that is worth doing."""

from dataclasses import dataclass

from relay_billing.domain.account_type import AccountType

CACHED = (AccountType.WALLET, AccountType.TOKEN)
"""Accounts of which new-api keeps a balance in Redis."""
LATE_MS = 60_000
"""A delta older than this is skipped: a cache lives so long (SYNC_FREQUENCY), and was most likely loaded anew since."""
UNCERTAIN_MS = 30_000
"""A delta claimed longer ago than this is of a worker that died, or lost Redis, and may have applied it or not."""


@dataclass(frozen=True, slots=True)
class CacheDelta:
    """One account's change, in one transaction."""

    id: int
    account_type: AccountType
    account_id: int
    amount: int
    """Quota."""
    created_at: int
    """Unix milliseconds."""
