"""Ledger rows: their kinds, and those that no session owns (semantics §10).

Clients choose request ids, so a request id may equal any name that is made here. Only the kind tells the rows apart: a
session's rows never have a kind of `OWN_KINDS`, and rows that no session owns have no other kind.
"""

from dataclasses import dataclass
from enum import StrEnum

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.entry_names import forfeit_name, top_up_name, write_off_name


class EntryKind(StrEnum):
    """Why a ledger row was written, as the database stores it (semantics §10)."""

    PRE_CONSUME = "pre_consume"
    RESERVE = "reserve"
    SETTLE = "settle"
    REFUND = "refund"
    EXPIRE = "expire"
    TOP_UP = "top_up"
    ADJUST = "adjust"
    OPENING = "opening"
    """Replaces all rows of an account that retention has removed."""


OWN_KINDS = (EntryKind.TOP_UP, EntryKind.ADJUST, EntryKind.OPENING)
"""Kinds of the rows that no session owns."""
SESSION_KINDS = tuple(kind for kind in EntryKind if kind not in OWN_KINDS)
"""Kinds of the rows that a session owns; their request id is the session's."""


@dataclass(frozen=True, slots=True)
class Movement:
    """One ledger row to write: the signed change, in quota, of what an account has left (semantics §10)."""

    request_id: str
    """The session's, or the name of a row that no session owns."""
    account_type: AccountType
    account_id: int
    kind: EntryKind
    amount: int
    step: int = 0
    """Tells apart rows of one name, account and kind: the reserves of a session, repeated write-offs of a letter."""
    note: str | None = None
    """An operator's reason; a movement that has one is written even where it moves nothing."""

    @classmethod
    def forfeit(cls, request_id: str, subscription_id: int, amount: int) -> "Movement":
        """Takes out again what was given back to a period that is over; `amount` is negative, or 0 (semantics §7)."""
        return cls(forfeit_name(request_id), AccountType.SUBSCRIPTION, subscription_id, EntryKind.ADJUST, amount)

    @classmethod
    def reset(cls, subscription_id: int, boundary: int, used: int, now_ms: int) -> "Movement":
        """Gives back what was `used` before a new period, which began at `boundary`, in Unix seconds (semantics §7).

        `now_ms` is part of the name: a calendar that was set back by hand passes the same boundary again.
        """
        name = f"reset:{subscription_id}:{boundary}:{now_ms}"
        return cls(name, AccountType.SUBSCRIPTION, subscription_id, EntryKind.ADJUST, used)

    @classmethod
    def outside(cls, account_type: AccountType, account_id: int, amount: int, now_ms: int, step: int) -> "Movement":
        """Explains what others have changed in an account; its balance has that already (semantics §12).

        `step`: how often that was done in the same millisecond before.
        """
        return cls(f"outside:{now_ms}", account_type, account_id, EntryKind.ADJUST, amount, step)

    @classmethod
    def write_off(cls, letter_id: int, met: int, user_id: int | None, note: str) -> "Movement":
        """Says why an operator gave up what a dead letter has at stake; it moves nothing.

        `met`: how often the letter's job was refused; after one more refusal the letter can be written off again.
        """
        return cls(write_off_name(letter_id), AccountType.WALLET, user_id or 0, EntryKind.ADJUST, 0, met, note)

    @classmethod
    def top_up(cls, reference: str, user_id: int, amount: int, note: str | None) -> "Movement":
        """Money that came in, once for each reference."""
        return cls(top_up_name(reference), AccountType.WALLET, user_id, EntryKind.TOP_UP, amount, note=note)

    @property
    def session(self) -> str | None:
        """The request id of the session that owns the row; None: no session does."""
        return self.request_id if self.kind in SESSION_KINDS else None


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A movement with the balance that it leaves; of a subscription that balance is `-amount_used`."""

    movement: Movement
    balance_after: int
    created_at: int
    shadow: bool = False
    """True: nothing was moved; `balance_after` is what the movement would have left (semantics §13)."""
