"""The statements of the hot paths on sessions and ledger; those on accounts are in `account_statements`.

Each is constant, so it is compiled once, planned once, and sent in a pipeline.
"""

from dataclasses import fields

from sqlalchemy import BindParameter, ColumnElement, Select, bindparam, func, or_, select, update

from relay_billing.domain.sessions import OPEN_STATES, BillingSession, State
from relay_billing.schema import TRUSTED_USER, billing_ledger, billing_sessions, billing_shadow_refusals, in_state
from relay_billing.store.ids import among

Rows = Select[tuple[object, ...]]

SESSION_COLUMNS = tuple(field.name for field in fields(BillingSession))
MUTABLE = (
    "state",
    "pre_consumed_quota",
    "token_consumed",
    "subscription_post_delta",
    "reserves",
    "actual_quota",
    "reason",
    "token_error",
    "parked",
    "parked_reason",
    "intent",
    "intent_quota",
    "intent_reason",
    "intent_at",
    "closed_at",
)
"""Columns that a transition may change; the others keep what the pre-consume has set."""
OPENING_COLUMNS = tuple(
    name for name in SESSION_COLUMNS if name not in MUTABLE or name in ("state", "pre_consumed_quota", "token_consumed")
)
"""Columns that a pre-consume sets; the others begin with their defaults."""

_S = billing_sessions.c


def given(name: str, like: ColumnElement[object]) -> BindParameter[object]:
    """A parameter of the type of a column."""
    return bindparam(name, type_=like.type)


def locked(rows: Rows) -> Rows:
    """The rows, locked. NO KEY UPDATE: nothing here changes a primary key, so inserts that refer to it don't wait."""
    return rows.with_for_update(key_share=True)


# Loads. `ids` is a sorted list.
READ_SESSIONS = select(billing_sessions).where(among(_S.request_id, "ids")).order_by(_S.request_id)
# For replays, which are rare: no other column is sent for nothing.
KNOWN_SESSIONS = select(_S.request_id).where(among(_S.request_id, "ids"))
LOCK_SESSIONS = locked(READ_SESSIONS)
LOCK_SESSION_KEYS = locked(select(_S.request_id).where(among(_S.request_id, "ids")).order_by(_S.request_id))
# Of those in shadow, or of the others: neither counts for the other kind.
TRUSTED_OPEN = (
    select(_S.user_id, func.count().label("open"))
    .where(
        among(TRUSTED_USER, "ids"),
        in_state(State.PRECONSUMED.value),
        _S.trusted,
        _S.shadow == given("shadow", _S.shadow),
    )
    .group_by(_S.user_id)
)

# Writes. Deltas, never balances.
OPEN_SESSION = billing_sessions.insert()
ADD_ENTRY = billing_ledger.insert()
ADD_REFUSAL = billing_shadow_refusals.insert()
MOVE_SESSION = (
    update(billing_sessions)
    .where(_S.request_id == given("of", _S.request_id), _S.state == given("was", _S.state))
    .values({name: given(f"to_{name}", _S[name]) for name in MUTABLE})
)
WRITE_INTENT = (
    update(billing_sessions)
    .where(
        _S.request_id == given("of", _S.request_id),
        _S.intent.is_(None),
        # Not IN: SQLAlchemy expands its list, which it can't do for many sets of parameters.
        or_(*(_S.state == state.value for state in OPEN_STATES)),
    )
    # No longer parked: the job, or the sweep, judges the session again.
    .values(
        intent=given("to", _S.intent),
        intent_quota=given("quota_", _S.intent_quota),
        intent_reason=given("reason_", _S.intent_reason),
        intent_at=given("at", _S.intent_at),
        parked=False,
    )
)
