"""Events for the operator's webhook: claimed for sending, closed or put off, listed, retried, purged.

Nothing is sent within a transaction: a worker claims events in one, sends them, and records the result in another.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from sqlalchemy import String, literal_column, select, update

from relay_billing.domain import checks
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.sending import given_up, pause_ms
from relay_billing.domain.webhook_events import Event
from relay_billing.flows.context import BATCH, Context
from relay_billing.schema import PENDING_AT, billing_webhooks
from relay_billing.store.commands import Command, Steps
from relay_billing.store.retention import purge_rows
from relay_billing.store.webhooks import DELIVERED, FAILED, PENDING, announced_once

STATES = (PENDING, DELIVERED, FAILED)
MAX_ERROR = 255
MAX_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class Webhook:
    """One row of `billing_webhooks`. Times are Unix milliseconds."""

    id: int
    event_id: str
    """The same in every delivery of the event, so that a receiver can drop duplicates."""
    event: str
    body: str
    """The JSON that is sent."""
    state: str
    attempts: int
    """How often the event was claimed for sending."""
    next_at: int
    """When it may be sent again, while it is `pending`."""
    last_error: str | None
    created_at: int
    closed_at: int | None


_C = billing_webhooks.c
_ROWS = select(*(_C[field.name] for field in fields(Webhook)))


def announce_drift(context: Context, findings: Sequence[Mapping[str, object]], count: int) -> Steps[None]:
    """Keep an event for the drifts of a reconciliation, `count` in all; the same findings make only one event."""
    if context.policy.announce:
        yield [announced_once(context.dialect, Event.of_drift(findings, count, context.now_ms))]


def claim(context: Context, limit: int) -> Steps[list[Webhook]]:
    """Claim up to `limit` due events, longest due first; skips those that other workers are claiming.

    A claim counts an attempt and sets the next due time, so an event whose sender dies is sent again then.
    """
    checks.batch("limit", limit)
    # A literal: with a parameter, a cached plan could not use the partial index.
    pending = _C.state == literal_column(f"'{PENDING}'", String)
    due = _ROWS.where(pending, context.now_ms >= PENDING_AT).order_by(PENDING_AT, _C.id).limit(limit)
    (found,) = yield [Command(due.with_for_update(skip_locked=True))]
    if not found.rows:
        return []
    commands, taken = [], []
    for row in found.rows:
        attempts = row["attempts"] + 1
        next_at = context.now_ms + pause_ms(attempts, random.random())
        taken.append(Webhook(**{**row, "attempts": attempts, "next_at": next_at}))
        commands.append(
            Command(update(billing_webhooks).where(_C.id == row["id"]).values(attempts=attempts, next_at=next_at))
        )
    yield commands
    return taken


def close(context: Context, webhook: Webhook, error: str | None) -> Steps[str]:
    """Mark a claimed event delivered (`error`: None), leave it pending, or mark it failed; return its state."""
    values: dict[str, object] = {"last_error": None if error is None else error[:MAX_ERROR]}
    state = PENDING
    if error is None:
        state = DELIVERED
    elif given_up(webhook.attempts, webhook.created_at, context.now_ms):
        state = FAILED
    if state != PENDING:
        values |= {"state": state, "closed_at": context.now_ms}
    # A slow sender must not overwrite a later one's result: a delivered event stays delivered.
    mine = update(billing_webhooks).where(_C.id == webhook.id, _C.state != DELIVERED)
    if error is not None:
        mine = mine.where(_C.attempts == webhook.attempts)
    yield [Command(mine.values(**values))]
    return state


def find(context: Context, state: str | None = None, limit: int = 100) -> Steps[list[Webhook]]:
    """Events in `state` (unset: in any), oldest first. Raises InvalidRequest for an unknown state or a bad limit."""
    checks.whole("limit", limit, 1, MAX_LISTED)
    if state is not None and state not in STATES:
        raise InvalidRequest("state", f"must be one of {', '.join(STATES)}, got {state!r:.80}")
    rows = _ROWS if state is None else _ROWS.where(_C.state == state)
    (found,) = yield [Command(rows.order_by(_C.id).limit(limit))]
    return [Webhook(**row) for row in found.rows]


def retry(context: Context, ids: Sequence[int]) -> Steps[list[int]]:
    """Make failed events pending again, due now, with attempts and age reset; return the ids that were failed."""
    checks.batch("ids", len(ids))
    for each in ids:
        checks.row_id("id", each)
    wanted = select(_C.id).where(_C.id.in_(ids), _C.state == FAILED).order_by(_C.id)
    (found,) = yield [Command(wanted.with_for_update())]
    failed = [row["id"] for row in found.rows]
    if failed:
        again = update(billing_webhooks).where(_C.id.in_(failed))
        now_ms = context.now_ms
        fresh = {"state": PENDING, "attempts": 0, "next_at": now_ms, "created_at": now_ms, "closed_at": None}
        yield [Command(again.values(**fresh))]
    return failed


def purge(context: Context, before_ms: int) -> Steps[int]:
    """Remove a batch of events closed before `before_ms` (Unix milliseconds); return how many. Pending ones stay."""
    return purge_rows(_C.id, _C.closed_at < before_ms, BATCH)
