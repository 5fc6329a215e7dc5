"""All tables (SQLAlchemy Core): ours, and those of `account_tables`. All money is 64-bit quota (semantics §1)."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    false,
    literal_column,
    text,
)

from relay_billing.account_tables import ACCOUNT_TABLES as ACCOUNT_TABLES
from relay_billing.account_tables import RowId
from relay_billing.account_tables import amount as _amount
from relay_billing.account_tables import metadata as metadata
from relay_billing.account_tables import subscription_plans as subscription_plans
from relay_billing.account_tables import tokens as tokens
from relay_billing.account_tables import user_subscriptions as user_subscriptions
from relay_billing.account_tables import users as users
from relay_billing.column_types import exact, long_words, words
from relay_billing.domain.sessions import OPEN_STATES, State
from relay_billing.partial_indexes import FoundBy, partial_index

billing_sessions = Table(
    "billing_sessions",
    metadata,
    Column("request_id", exact(64), primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("token_id", BigInteger),
    Column("quota", BigInteger, nullable=False),
    Column("model_name", words(255), nullable=False),
    Column("preference", exact(32), nullable=False),
    Column("playground", Boolean, nullable=False),
    Column("state", exact(16), nullable=False),
    Column("source", exact(32), nullable=False),
    Column("pre_consumed_quota", BigInteger, nullable=False),
    Column("token_consumed", BigInteger, nullable=False),
    Column("trusted", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("user_quota", BigInteger),
    Column("subscription_id", BigInteger),
    Column("subscription_plan_id", BigInteger),
    Column("subscription_plan_title", words(128)),
    _amount("subscription_amount_total"),
    _amount("subscription_amount_used_after_pre_consume"),
    _amount("subscription_pre_consumed"),
    _amount("subscription_post_delta"),
    _amount("period"),
    Column("reserves", Integer, nullable=False, server_default=text("0")),
    Column("actual_quota", BigInteger),
    Column("reason", words(64)),
    Column("token_error", words(255)),
    Column("parked", Boolean, nullable=False, server_default=false()),
    Column("parked_reason", exact(64)),
    Column("intent", exact(8)),
    Column("intent_quota", BigInteger),
    Column("intent_reason", words(64)),
    Column("intent_at", BigInteger),
    Column("closed_at", BigInteger),
    # Judged beside a relay's own billing; nothing was moved.
    Column("shadow", Boolean, nullable=False, server_default=false()),
)

_SESSION = billing_sessions.c


def _in(state: str) -> ColumnElement[bool]:
    return _SESSION.state == literal_column(f"'{state}'", String)


def in_state(state: str) -> ColumnElement[bool]:
    """Whether a session is in this state, its word written into the statement.

    As a parameter it would be unknown to a plan that is kept, and a partial index of no use.
    """
    written = _in(state)
    return FoundBy(written, "billing_sessions.open_expires_at IS NOT NULL") if state == State.PRECONSUMED else written


def open_states() -> ColumnElement[bool]:
    """As `in_state`, for the states in which a recorded intent waits to be applied."""
    return _SESSION.state.in_([literal_column(f"'{state.value}'", String) for state in OPEN_STATES])


# Partial: only what is open is indexed, so "open sessions by age" stays cheap however many closed ones there are.
_OPEN = _in(State.PRECONSUMED)
_WAITING = _SESSION.intent.is_not(None) & open_states()
partial_index("ix_billing_sessions_open", _SESSION.expires_at, _OPEN, "open_expires_at")
partial_index("ix_billing_sessions_waiting", _SESSION.intent_at, _WAITING, "waiting_intent_at")
partial_index("ix_billing_sessions_trusted", _SESSION.user_id, _OPEN & _SESSION.trusted, "trusted_user_id")
# For retention, and for proofs of what has moved since a time. Rows come in the order of their age, so a BRIN of a few
# pages does; it holds both times apart, so that either is looked up in it.
Index("ix_billing_sessions_times", _SESSION.created_at, _SESSION.closed_at, postgresql_using="brin")

EXPIRES_AT: ColumnElement[int] = FoundBy(_SESSION.expires_at, "billing_sessions.open_expires_at")
"""Of an open session: beside `in_state`, it is looked up in the index of open ones."""
WAITING: ColumnElement[bool] = FoundBy(_WAITING, "billing_sessions.waiting_intent_at IS NOT NULL")
"""Whether an intent waits to be applied."""
INTENT_AT: ColumnElement[int] = FoundBy(_SESSION.intent_at, "billing_sessions.waiting_intent_at")
"""Of a waiting intent: beside `WAITING`, it is looked up in the index of waiting ones."""
TRUSTED_USER: ColumnElement[int] = FoundBy(_SESSION.user_id, "billing_sessions.trusted_user_id")
"""Of an open trusted session, likewise."""

billing_ledger = Table(
    "billing_ledger",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("request_id", exact(128), nullable=False),
    Column("account_type", exact(16), nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("kind", exact(16), nullable=False),
    Column("step", Integer, nullable=False, server_default=text("0")),
    Column("amount", BigInteger, nullable=False),
    Column("balance_after", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("note", words(255)),
    # Of a shadow session: no account was moved, and no sum of an account has it.
    Column("shadow", Boolean, nullable=False, server_default=false()),
    # One row per session, account and kind: a second guard behind the session's state.
    UniqueConstraint("request_id", "account_type", "account_id", "kind", "step"),
    Index("ix_billing_ledger_account", "account_type", "account_id", "id"),
    Index("ix_billing_ledger_created", "created_at", postgresql_using="brin"),
)

billing_dead_letters = Table(
    "billing_dead_letters",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("task", exact(64), nullable=False),
    Column("request_id", exact(64), index=True),
    Column("user_id", BigInteger),
    Column("reason", exact(64), nullable=False),
    Column("detail", long_words(), nullable=False),
    Column("job", long_words(), nullable=False),
    _amount("quota"),
    # The same job refused again for the same reason is the same letter, met once more.
    Column("fingerprint", exact(64), nullable=False, unique=True),
    Column("deliveries", Integer, nullable=False, server_default=text("1")),
    Column("created_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    # What an operator did about it; null: nothing yet.
    Column("resolution", exact(16)),
    Column("resolved_at", BigInteger),
    Column("note", words(255)),
)

# What nobody has dealt with yet, found without the rest.
_LETTER = billing_dead_letters.c
_UNRESOLVED = _LETTER.resolved_at.is_(None)
partial_index("ix_billing_dead_letters_open", _LETTER.created_at, _UNRESOLVED, "open_created_at")
UNRESOLVED: ColumnElement[bool] = FoundBy(_UNRESOLVED, "billing_dead_letters.open_created_at IS NOT NULL")
"""Whether nobody has dealt with a dead letter yet."""

# The last reconciliations of everything, so that every process can say when the last one ended and what it found.
billing_reconciliations = Table(
    "billing_reconciliations",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("finished_at", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("drifts", BigInteger, nullable=False),
    Column("drift_quota", BigInteger, nullable=False),
)
# Events to send, and what came of each. A row is written with the movements it announces, only while `announce` is on.
billing_webhooks = Table(
    "billing_webhooks",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("event_id", exact(64), nullable=False, unique=True),
    Column("event", exact(32), nullable=False),
    Column("body", long_words(), nullable=False),
    # pending, delivered, or failed: nobody took it, and it is not tried again.
    Column("state", exact(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_at", BigInteger, nullable=False),
    Column("last_error", words(255)),
    Column("created_at", BigInteger, nullable=False),
    Column("closed_at", BigInteger),
)
_PENDING = billing_webhooks.c.state == literal_column("'pending'", String)
partial_index("ix_billing_webhooks_due", billing_webhooks.c.next_at, _PENDING, "pending_next_at")
PENDING_AT: ColumnElement[int] = FoundBy(billing_webhooks.c.next_at, "billing_webhooks.pending_next_at")
"""When a pending event is due: beside its state, it is looked up in the index of pending ones."""

# Movements of wallets and tokens that a relay's caches have not heard of, while `cache_deltas` is on.
billing_cache_deltas = Table(
    "billing_cache_deltas",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("account_type", exact(16), nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # By a worker that is about to apply it: from then on it is never applied by another one.
    Column("claimed_at", BigInteger),
)

# When periodic work was last done, for every process to see whether it comes through at all.
billing_heartbeats = Table(
    "billing_heartbeats",
    metadata,
    Column("name", exact(32), primary_key=True),
    Column("at", BigInteger, nullable=False),
)

# Jobs whose session is not there yet, while the broker keeps the message that tries them again: it may lose it.
billing_strays = Table(
    "billing_strays",
    metadata,
    Column("fingerprint", exact(64), primary_key=True),
    Column("task", exact(64), nullable=False),
    Column("job", long_words(), nullable=False),
    # Of the last try.
    Column("at", BigInteger, nullable=False, index=True),
)

# What would have been refused, for `shadow report`: a refused request has no session.
billing_shadow_refusals = Table(
    "billing_shadow_refusals",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("request_id", exact(64), nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("token_id", BigInteger),
    _amount("quota"),
    Column("model_name", words(255), nullable=False),
    Column("code", exact(64), nullable=False),
    Column("detail", long_words(), nullable=False),
    Column("funds", BigInteger),
    Column("created_at", BigInteger, nullable=False, index=True),
)

# How often a job was handed out again after its worker was lost; a row goes when the job is applied.
billing_deliveries = Table(
    "billing_deliveries",
    metadata,
    Column("fingerprint", exact(64), primary_key=True),
    Column("deliveries", Integer, nullable=False),
    Column("last_at", BigInteger, nullable=False),
)

# The HTTP door's keys, by their digests. A row stays when its key is revoked: a door that had keys never opens again.
billing_api_keys = Table(
    "billing_api_keys",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("name", exact(64), nullable=False),
    Column("sha256", exact(64), nullable=False, unique=True),
    # Words of `Scope`, separated by commas.
    Column("scopes", exact(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)
_KEY = billing_api_keys.c
_UNREVOKED = _KEY.revoked_at.is_(None)
partial_index("uq_billing_api_keys_unrevoked", _KEY.name, _UNREVOKED, "unrevoked_name", "VARBINARY(256)", unique=True)
