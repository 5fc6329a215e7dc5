"""Conditions on ledger rows: sessions' rows, opening rows. They test the kind, never the request id alone."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, or_

from relay_billing.domain.entries import SESSION_KINDS, EntryKind
from relay_billing.domain.entry_names import forfeit_name, write_off_name
from relay_billing.schema import billing_ledger

_C = billing_ledger.c


def owned() -> ColumnElement[bool]:
    """Rows that sessions own."""
    return _C.kind.in_([kind.value for kind in SESSION_KINDS])


def of_sessions(request_ids: Sequence[str], letter_ids: Sequence[int] = ()) -> ColumnElement[bool]:
    """All rows of these sessions: their own, their forfeits, and the write-offs of these dead letters."""
    names = [*(forfeit_name(each) for each in request_ids), *(write_off_name(each) for each in letter_ids)]
    adjusting = and_(_C.request_id.in_(names), _C.kind == EntryKind.ADJUST.value)
    return or_(and_(_C.request_id.in_(request_ids), owned()), adjusting)


def opening() -> ColumnElement[bool]:
    """Opening rows: each carries forward the rows that retention has removed from its account."""
    return _C.kind == EntryKind.OPENING.value
