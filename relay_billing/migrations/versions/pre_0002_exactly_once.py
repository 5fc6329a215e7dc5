"""What operators do about dead letters, deliveries of jobs that lose their worker, an index for retention."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.column_types import exact, words
from relay_billing.migrations.steps import steps

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add columns that are empty at first, a table and an index: older code goes on beside it."""
    steps.add_column("billing_dead_letters", sa.Column("resolution", exact(16), nullable=True))
    steps.add_column("billing_dead_letters", sa.Column("resolved_at", sa.BigInteger(), nullable=True))
    steps.add_column("billing_dead_letters", sa.Column("note", words(255), nullable=True))
    steps.create_table(
        "billing_deliveries",
        sa.Column("fingerprint", exact(64), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=steps.f("pk_billing_deliveries")),
    )
    for table in ("billing_sessions", "billing_ledger"):
        steps.create_index(f"ix_{table}_created", table, ["created_at"], unique=False, postgresql_using="brin")


def downgrade() -> None:
    """Forget it."""
    steps.drop_index("ix_billing_ledger_created", table_name="billing_ledger")
    steps.drop_index("ix_billing_sessions_created", table_name="billing_sessions")
    steps.drop_table("billing_deliveries")
    for name in ("note", "resolved_at", "resolution"):
        steps.drop_column("billing_dead_letters", name)
