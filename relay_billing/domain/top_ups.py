"""How money comes in: a top-up of a wallet, once for each reference (semantics §10)."""

from dataclasses import dataclass

from relay_billing.domain import checks
from relay_billing.domain.changes import Changes
from relay_billing.domain.entries import Movement
from relay_billing.domain.errors import InvalidRequest, QueryDataError, ReferenceConflict
from relay_billing.domain.money import MAX_QUOTA
from relay_billing.domain.worksheet import Worksheet

MAX_REFERENCE = 64
MAX_NOTE = 255
MAX_WALLET = 2**62
"""Quota. The most that a top-up may leave in a wallet: far from where a 64-bit column ends."""


@dataclass(frozen=True, slots=True)
class TopUp:
    """Put `quota` (1 to 2^53) into a user's wallet. Raises InvalidRequest for a value out of range.

    `reference` (1 to 64 characters) is the payment's own id: the same one again moves nothing.
    """

    user_id: int
    quota: int
    reference: str
    note: str | None = None
    """Why, at most 255 characters; unset: the ledger keeps the reference alone."""

    def __post_init__(self) -> None:
        checks.row_id("user_id", self.user_id)
        checks.whole("quota", self.quota, 1, MAX_QUOTA)
        checks.text("reference", self.reference, 1, MAX_REFERENCE)
        if self.note is not None:
            checks.text("note", self.note, 1, MAX_NOTE)


@dataclass(frozen=True, slots=True)
class ToppedUp:
    """What came of a top-up. Amounts are quota, `at` is Unix milliseconds."""

    user_id: int
    quota: int
    reference: str
    balance_after: int
    """The wallet right after the top-up, not as it stands now."""
    at: int
    replayed: bool
    """True: the reference was known, and nothing moved now."""

    def answering(self, asked: TopUp) -> "ToppedUp":
        """The answer to a reference that is known. Raises ReferenceConflict where user or amount differ."""
        for field, before, now in (("user", self.user_id, asked.user_id), ("quota", self.quota, asked.quota)):
            if before != now:
                raise ReferenceConflict(asked.reference, field, before, now)
        return self


def top_up(sheet: Worksheet, asked: TopUp) -> tuple[Changes, ToppedUp]:
    """Decide a top-up whose reference is new.

    Raises QueryDataError where there is no such user, InvalidRequest where the wallet would hold too much.
    """
    wallet = sheet.wallets.get(asked.user_id)
    if wallet is None:
        raise QueryDataError(f"user {asked.user_id} does not exist", None)
    after = wallet.quota + asked.quota
    most = min(MAX_WALLET, sheet.limits.wallet)
    if after > most:
        raise InvalidRequest("quota", f"the wallet would hold {after}, it may hold {most}")
    row = Movement.top_up(asked.reference, asked.user_id, asked.quota, asked.note)
    done = ToppedUp(asked.user_id, asked.quota, asked.reference, after, sheet.now_ms, replayed=False)
    return Changes(movements=(row,)), done
