"""What operators do about dead letters, deliveries of jobs that lose their worker, an index for retention."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add columns that are empty at first, a table and an index: older code goes on beside it."""
    op.add_column("billing_dead_letters", sa.Column("resolution", sa.String(length=16), nullable=True))
    op.add_column("billing_dead_letters", sa.Column("resolved_at", sa.BigInteger(), nullable=True))
    op.add_column("billing_dead_letters", sa.Column("note", sa.String(length=255), nullable=True))
    op.create_table(
        "billing_deliveries",
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_billing_deliveries")),
    )
    for table in ("billing_sessions", "billing_ledger"):
        op.create_index(f"ix_{table}_created", table, ["created_at"], unique=False, postgresql_using="brin")


def downgrade() -> None:
    """Forget it."""
    op.drop_index("ix_billing_ledger_created", table_name="billing_ledger")
    op.drop_index("ix_billing_sessions_created", table_name="billing_sessions")
    op.drop_table("billing_deliveries")
    with op.batch_alter_table("billing_dead_letters") as table:
        table.drop_column("note")
        table.drop_column("resolved_at")
        table.drop_column("resolution")
