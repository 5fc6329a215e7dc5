"""Statements that keep events, in the transaction of the movements they report, until a task has sent them."""

from collections.abc import Sequence

from sqlalchemy import BindParameter, ColumnElement, bindparam, exists, literal, select

from relay_billing.domain.dead_letters import Letter
from relay_billing.domain.webhook_events import Event
from relay_billing.schema import billing_dead_letters, billing_webhooks
from relay_billing.store.commands import Command
from relay_billing.store.dialects import Dialect

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
"""States of an event."""

ADD_EVENT = billing_webhooks.insert()


def _row(event: Event) -> dict[str, object]:
    return {
        "event_id": event.id,
        "event": event.type.value,
        "body": event.body(),
        "state": PENDING,
        "next_at": event.created_at,
        "created_at": event.created_at,
    }


def announced(dialect: Dialect, events: Sequence[Event]) -> Command:
    """Keep events that happen once: one statement for all of them."""
    return dialect.many(ADD_EVENT, [_row(event) for event in events])


def announced_once(dialect: Dialect, event: Event) -> Command:
    """Keep an event unless it is kept already."""
    return dialect.upsert(billing_webhooks.c.event_id, lambda _: {}, [_row(event)])


def _given(name: str) -> BindParameter[object]:
    column: ColumnElement[object] = billing_webhooks.c[name]
    return bindparam(name, type_=column.type)


_COLUMNS = ("event_id", "event", "body", "state", "next_at", "created_at")
_L = billing_dead_letters.c
_KNOWN = exists(select(literal(1)).where(_L.fingerprint == bindparam("fingerprint"), _L.resolved_at.is_(None)))
# Runs before the letters are written: a letter that is open already was announced.
ADD_LETTER_EVENT = billing_webhooks.insert().from_select(
    list(_COLUMNS), select(*(_given(name) for name in _COLUMNS)).where(~_KNOWN)
)


def letters_announced(letters: Sequence[Letter], now_ms: int) -> Command:
    """Keep an event for each dead letter that is not open already."""
    once = {letter.fingerprint: letter for letter in letters}
    rows = [{**_row(Event.of_letter(letter, now_ms)), "fingerprint": of} for of, letter in sorted(once.items())]
    return Command(ADD_LETTER_EVENT, rows)
