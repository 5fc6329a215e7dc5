"""How money comes in: a top-up of a wallet, once for each reference (semantics §10)."""

from dataclasses import dataclass

from relay_billing.domain import inputs
from relay_billing.domain.accounts import AccountType
from relay_billing.domain.changes import TOP_UP, Book, Changes, Movement
from relay_billing.domain.errors import InvalidRequest, QueryDataError, ReferenceConflict
from relay_billing.domain.money import MAX_QUOTA

PREFIX = "topup:"
"""Begins the request id of a top-up's ledger row."""
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
        inputs.row_id("user_id", self.user_id)
        inputs.whole("quota", self.quota, 1, MAX_QUOTA)
        inputs.text("reference", self.reference, 1, MAX_REFERENCE)
        if self.note is not None:
            inputs.text("note", self.note, 1, MAX_NOTE)

    @property
    def request_id(self) -> str:
        """What its ledger row carries as request id."""
        return PREFIX + self.reference


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


def replay(asked: TopUp, known: ToppedUp) -> ToppedUp:
    """The answer to a reference that is known. Raises ReferenceConflict where user or amount differ."""
    for field, before, now in (("user", known.user_id, asked.user_id), ("quota", known.quota, asked.quota)):
        if before != now:
            raise ReferenceConflict(asked.reference, field, before, now)
    return known


def top_up(book: Book, asked: TopUp) -> tuple[Changes, ToppedUp]:
    """Decide a top-up whose reference is new.

    Raises QueryDataError where there is no such user, InvalidRequest where the wallet would hold too much.
    """
    wallet = book.wallets.get(asked.user_id)
    if wallet is None:
        raise QueryDataError(f"user {asked.user_id} does not exist", None)
    after = wallet.quota + asked.quota
    if after > MAX_WALLET:
        raise InvalidRequest("quota", f"the wallet would hold {after}, it may hold {MAX_WALLET}")
    row = Movement(asked.request_id, AccountType.WALLET, asked.user_id, TOP_UP, asked.quota, note=asked.note)
    done = ToppedUp(asked.user_id, asked.quota, asked.reference, after, book.now_ms, replayed=False)
    return Changes(movements=(row,)), done
