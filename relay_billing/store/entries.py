"""Conditions on ledger rows: which are a session's, which stand for what was removed. By kind, never by name alone."""

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
    """All rows of these sessions: their own, what they forfeited, and write-offs of these dead letters."""
    names = [*(forfeit_name(each) for each in request_ids), *(write_off_name(each) for each in letter_ids)]
    adjusting = and_(_C.request_id.in_(names), _C.kind == EntryKind.ADJUST.value)
    return or_(and_(_C.request_id.in_(request_ids), owned()), adjusting)


def opening() -> ColumnElement[bool]:
    """Rows that stand for all that retention has removed of their accounts."""
    return _C.kind == EntryKind.OPENING.value
