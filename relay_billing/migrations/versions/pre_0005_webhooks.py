"""Events that are to be told to the operator's webhook, and how it went."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.column_types import exact, long_words, words
from relay_billing.migrations.steps import steps

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add a table: older code goes on beside it."""
    steps.create_table(
        "billing_webhooks",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", exact(64), nullable=False),
        sa.Column("event", exact(32), nullable=False),
        sa.Column("body", long_words(), nullable=False),
        sa.Column("state", exact(16), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("last_error", words(255), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_billing_webhooks")),
        sa.UniqueConstraint("event_id", name=steps.f("uq_billing_webhooks_event_id")),
    )
    steps.partial_index(
        "ix_billing_webhooks_due", "billing_webhooks", "next_at", "state = 'pending'", "pending_next_at", "BIGINT"
    )


def downgrade() -> None:
    """Forget it."""
    steps.drop_table("billing_webhooks")
