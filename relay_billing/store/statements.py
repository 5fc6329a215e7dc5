"""The statements of the hot paths. Each is constant, so it is compiled once, planned once, and sent in a pipeline."""

from dataclasses import fields
from functools import lru_cache

from sqlalchemy import BindParameter, ColumnElement, Select, bindparam, func, or_, select, update

from relay_billing.domain.sessions import OPEN_STATES, BillingSession, State
from relay_billing.schema import (
    billing_ledger,
    billing_sessions,
    billing_shadow_refusals,
    in_state,
    subscription_plans,
    tokens,
    user_subscriptions,
    users,
)
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

_S, _U, _T, _B, _P = billing_sessions.c, users.c, tokens.c, user_subscriptions.c, subscription_plans.c


def _given(name: str, like: ColumnElement[object]) -> BindParameter[object]:
    """A parameter of the type of a column."""
    return bindparam(name, type_=like.type)


def locked(rows: Rows) -> Rows:
    """The rows, locked. NO KEY UPDATE: nothing here changes a primary key, so inserts that refer to it don't wait."""
    return rows.with_for_update(key_share=True)


@lru_cache(maxsize=64)
def unlocked(rows: Rows) -> Rows:
    """The same rows without their lock, for what must not stand in a relay's way (semantics §13).

    The same object for the same statement: it is constant too.
    """
    made = rows._generate()
    # SQLAlchemy's with_for_update can only set it.
    made._for_update_arg = None
    return made


# Loads. `ids` is a sorted list.
READ_SESSIONS = select(billing_sessions).where(among(_S.request_id, "ids")).order_by(_S.request_id)
LOCK_SESSIONS = locked(READ_SESSIONS)
LOCK_SESSION_KEYS = locked(select(_S.request_id).where(among(_S.request_id, "ids")).order_by(_S.request_id))
LOCK_USERS = locked(select(_U.id, _U.quota).where(among(_U.id, "ids")).order_by(_U.id))
_ACTIVE_OF = (among(_B.user_id, "ids"), _B.status == "active", _B.end_time > bindparam("now", type_=_B.end_time.type))
LOCK_ACTIVE_SUBSCRIPTIONS = locked(select(user_subscriptions).where(*_ACTIVE_OF).order_by(_B.id))
_TOKENS = select(_T.id, _T.user_id, _T.remain_quota, _T.unlimited_quota).order_by(_T.id)
LOCK_TOKENS = locked(_TOKENS.where(among(_T.id, "ids")))


def _of_sessions(account: ColumnElement[int]) -> Select[int]:
    """The account ids of the sessions in the parameter `ids`."""
    return select(account).where(among(_S.request_id, "ids"))


# Accounts by their sessions: saves a round trip that would read the accounts' ids.
LOCK_USERS_OF = locked(select(_U.id, _U.quota).where(_U.id.in_(_of_sessions(_S.user_id))).order_by(_U.id))
LOCK_SUBSCRIPTIONS_OF = locked(
    select(user_subscriptions).where(_B.id.in_(_of_sessions(_S.subscription_id))).order_by(_B.id)
)
LOCK_TOKENS_OF = locked(_TOKENS.where(_T.id.in_(_of_sessions(_S.token_id))))
PLANS = select(_P.id, _P.title, _P.quota_reset_period, _P.quota_reset_custom_seconds)
PLANS_OF_ACTIVE = PLANS.where(_P.id.in_(select(_B.plan_id).where(*_ACTIVE_OF)))
# Of those in shadow, or of the others: neither counts for the other kind.
TRUSTED_OPEN = (
    select(_S.user_id, func.count().label("open"))
    .where(
        among(_S.user_id, "ids"),
        in_state(State.PRECONSUMED.value),
        _S.trusted,
        _S.shadow == _given("shadow", _S.shadow),
    )
    .group_by(_S.user_id)
)

# Writes. Deltas, never balances.
OPEN_SESSION = billing_sessions.insert()
ADD_ENTRY = billing_ledger.insert()
ADD_REFUSAL = billing_shadow_refusals.insert()
MOVE_SESSION = (
    update(billing_sessions)
    .where(_S.request_id == _given("of", _S.request_id), _S.state == _given("was", _S.state))
    .values({name: _given(f"to_{name}", _S[name]) for name in MUTABLE})
)
WRITE_INTENT = (
    update(billing_sessions)
    .where(
        _S.request_id == _given("of", _S.request_id),
        _S.intent.is_(None),
        # Not IN: SQLAlchemy expands its list, which it can't do for many sets of parameters.
        or_(*(_S.state == state.value for state in OPEN_STATES)),
    )
    # No longer parked: the job, or the sweep, judges the session again.
    .values(
        intent=_given("to", _S.intent),
        intent_quota=_given("quota_", _S.intent_quota),
        intent_reason=_given("reason_", _S.intent_reason),
        intent_at=_given("at", _S.intent_at),
        parked=False,
    )
)
MOVE_WALLET = (
    update(users)
    .where(_U.id == _given("of", _U.id))
    .values(
        quota=_U.quota + _given("delta", _U.quota),
        used_quota=_U.used_quota + _given("used", _U.quota),
        request_count=_U.request_count + _given("requests", _U.quota),
    )
)
MOVE_SUBSCRIPTION = (
    update(user_subscriptions)
    .where(_B.id == _given("of", _B.id))
    .values(
        amount_used=_B.amount_used - _given("delta", _B.amount_used),
        last_reset_time=_given("last", _B.last_reset_time),
        next_reset_time=_given("next", _B.next_reset_time),
        status=_given("to_status", _B.status),
    )
)
MOVE_TOKEN = (
    update(tokens)
    .where(_T.id == _given("of", _T.id))
    .values(
        remain_quota=_T.remain_quota + _given("delta", _T.remain_quota),
        used_quota=_T.used_quota - _given("delta", _T.remain_quota),
    )
)
