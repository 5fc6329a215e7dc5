"""Events that are to be told to the operator's webhook, and how it went."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add a table: older code goes on beside it."""
    op.create_table(
        "billing_webhooks",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.String(length=64), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("last_error", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_webhooks")),
        sa.UniqueConstraint("event_id", name=op.f("uq_billing_webhooks_event_id")),
    )
    pending = sa.text("state = 'pending'")
    op.create_index(
        "ix_billing_webhooks_due", "billing_webhooks", ["next_at"], postgresql_where=pending, sqlite_where=pending
    )


def downgrade() -> None:
    """Forget it."""
    op.drop_table("billing_webhooks")
