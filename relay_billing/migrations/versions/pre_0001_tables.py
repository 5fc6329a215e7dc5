"""The tables: accounts where they are missing, sessions, ledger, dead letters. Runs before the code is deployed."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.column_types import exact, long_words, words
from relay_billing.migrations.steps import steps

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def _users() -> None:
    steps.create_table(
        "users",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("username", words(64), server_default="", nullable=False),
        sa.Column("quota", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("used_quota", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("request_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_users")),
    )


def _tokens() -> None:
    steps.create_table(
        "tokens",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("key", words(128), server_default="", nullable=False),
        sa.Column("name", words(128), server_default="", nullable=False),
        sa.Column("status", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("remain_quota", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("used_quota", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("unlimited_quota", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_tokens")),
    )
    steps.create_index(steps.f("ix_tokens_user_id"), "tokens", ["user_id"], unique=False)


def _subscription_plans() -> None:
    steps.create_table(
        "subscription_plans",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("title", words(128), server_default="", nullable=False),
        sa.Column("quota_reset_period", words(16), server_default="never", nullable=False),
        sa.Column("quota_reset_custom_seconds", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_subscription_plans")),
    )


def _user_subscriptions() -> None:
    steps.create_table(
        "user_subscriptions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("plan_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("amount_total", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("amount_used", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("status", words(32), server_default="active", nullable=False),
        sa.Column("start_time", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("end_time", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_reset_time", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_reset_time", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_user_subscriptions")),
    )
    steps.create_index(steps.f("ix_user_subscriptions_user_id"), "user_subscriptions", ["user_id"], unique=False)


def _billing_sessions() -> None:
    steps.create_table(
        "billing_sessions",
        sa.Column("request_id", exact(64), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("token_id", sa.BigInteger(), nullable=True),
        sa.Column("quota", sa.BigInteger(), nullable=False),
        sa.Column("model_name", words(255), nullable=False),
        sa.Column("preference", exact(32), nullable=False),
        sa.Column("playground", sa.Boolean(), nullable=False),
        sa.Column("state", exact(16), nullable=False),
        sa.Column("source", exact(32), nullable=False),
        sa.Column("pre_consumed_quota", sa.BigInteger(), nullable=False),
        sa.Column("token_consumed", sa.BigInteger(), nullable=False),
        sa.Column("trusted", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("user_quota", sa.BigInteger(), nullable=True),
        sa.Column("subscription_id", sa.BigInteger(), nullable=True),
        sa.Column("subscription_plan_id", sa.BigInteger(), nullable=True),
        sa.Column("subscription_plan_title", words(128), nullable=True),
        sa.Column("subscription_amount_total", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "subscription_amount_used_after_pre_consume", sa.BigInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("subscription_pre_consumed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("subscription_post_delta", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("period", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("reserves", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("actual_quota", sa.BigInteger(), nullable=True),
        sa.Column("reason", words(64), nullable=True),
        sa.Column("token_error", words(255), nullable=True),
        sa.Column("parked", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("parked_reason", exact(64), nullable=True),
        sa.Column("intent", exact(8), nullable=True),
        sa.Column("intent_quota", sa.BigInteger(), nullable=True),
        sa.Column("intent_reason", words(64), nullable=True),
        sa.Column("intent_at", sa.BigInteger(), nullable=True),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("request_id", name=steps.f("pk_billing_sessions")),
    )
    # Written as statements say it: an index of other words is not found.
    trusted = "trusted" if steps.get_bind().dialect.name == "postgresql" else "trusted = 1"
    for name, column, where, virtual in (
        ("ix_billing_sessions_open", "expires_at", "state = 'preconsumed'", "open_expires_at"),
        ("ix_billing_sessions_trusted", "user_id", f"state = 'preconsumed' AND {trusted}", "trusted_user_id"),
        (
            "ix_billing_sessions_waiting",
            "intent_at",
            "intent IS NOT NULL AND state IN ('preconsumed', 'funding_settled', 'expired')",
            "waiting_intent_at",
        ),
    ):
        steps.partial_index(name, "billing_sessions", column, where, virtual, "BIGINT")


def _billing_ledger() -> None:
    steps.create_table(
        "billing_ledger",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("request_id", exact(128), nullable=False),
        sa.Column("account_type", exact(16), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", exact(16), nullable=False),
        sa.Column("step", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("note", words(255), nullable=True),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_billing_ledger")),
        sa.UniqueConstraint(
            "request_id", "account_type", "account_id", "kind", "step", name=steps.f("uq_billing_ledger_request_id")
        ),
    )
    steps.create_index(
        "ix_billing_ledger_account", "billing_ledger", ["account_type", "account_id", "id"], unique=False
    )


def _billing_dead_letters() -> None:
    steps.create_table(
        "billing_dead_letters",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("task", exact(64), nullable=False),
        sa.Column("request_id", exact(64), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("reason", exact(64), nullable=False),
        sa.Column("detail", long_words(), nullable=False),
        sa.Column("job", long_words(), nullable=False),
        sa.Column("quota", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("fingerprint", exact(64), nullable=False),
        sa.Column("deliveries", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_billing_dead_letters")),
        sa.UniqueConstraint("fingerprint", name=steps.f("uq_billing_dead_letters_fingerprint")),
    )
    steps.create_index(
        steps.f("ix_billing_dead_letters_request_id"), "billing_dead_letters", ["request_id"], unique=False
    )


def upgrade() -> None:
    """Make what is missing: account tables may be a relay's own."""
    there = set(sa.inspect(steps.get_bind()).get_table_names())
    accounts = {
        "users": _users,
        "tokens": _tokens,
        "subscription_plans": _subscription_plans,
        "user_subscriptions": _user_subscriptions,
    }
    for name, make in accounts.items():
        if name not in there:
            make()
    _billing_sessions()
    _billing_ledger()
    _billing_dead_letters()


def downgrade() -> None:
    """Drop our tables. Account tables stay: they hold what users have paid for."""
    steps.drop_table("billing_dead_letters")
    steps.drop_table("billing_ledger")
    steps.drop_table("billing_sessions")
