"""Statements that note events beside the movements they tell of; `relay_billing.webhooks` sends them on."""

from collections.abc import Sequence

from sqlalchemy import BindParameter, ColumnElement, bindparam, exists, literal, select

from relay_billing.domain.events import Event, letter_event
from relay_billing.schema import billing_dead_letters, billing_webhooks
from relay_billing.store.commands import Command
from relay_billing.store.dialects import Dialect

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
"""States of an event."""

NOTE = billing_webhooks.insert()


def _row(event: Event) -> dict[str, object]:
    return {
        "event_id": event.id,
        "event": event.type.value,
        "body": event.body(),
        "state": PENDING,
        "next_at": event.created_at,
        "created_at": event.created_at,
    }


def noted(dialect: Dialect, events: Sequence[Event]) -> Command:
    """Note events that happen once: one statement for all of them."""
    return dialect.many(NOTE, [_row(event) for event in events])


def noted_once(dialect: Dialect, event: Event) -> Command:
    """Note an event that may have been noted before."""
    insert = dialect.insert(billing_webhooks).values(_row(event))
    return Command(insert.on_conflict_do_nothing(index_elements=[billing_webhooks.c.event_id]))


def _given(name: str) -> BindParameter[object]:
    column: ColumnElement[object] = billing_webhooks.c[name]
    return bindparam(name, type_=column.type)


_COLUMNS = ("event_id", "event", "body", "state", "next_at", "created_at")
_L = billing_dead_letters.c
_KNOWN = exists(select(literal(1)).where(_L.fingerprint == bindparam("fingerprint"), _L.resolved_at.is_(None)))
# Sent before the letters are kept: what is open already was told.
NOTE_LETTER = billing_webhooks.insert().from_select(
    list(_COLUMNS), select(*(_given(name) for name in _COLUMNS)).where(~_KNOWN)
)


def letters_noted(letters: Sequence[dict[str, object]], now_ms: int) -> Command:
    """Note dead letters that are not open already."""
    once = {str(letter["fingerprint"]): letter for letter in letters}
    rows = [{**_row(letter_event(letter, now_ms)), "fingerprint": of} for of, letter in sorted(once.items())]
    return Command(NOTE_LETTER, rows)
