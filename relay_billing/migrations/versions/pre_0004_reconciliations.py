"""The last proofs of the books, for every process to see; an index of the dead letters that are open."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.migrations.steps import steps

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add a table and an index: older code goes on beside them."""
    steps.create_table(
        "billing_reconciliations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("drifts", sa.BigInteger(), nullable=False),
        sa.Column("drift_quota", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_billing_reconciliations")),
    )
    steps.partial_index(
        "ix_billing_dead_letters_open",
        "billing_dead_letters",
        "created_at",
        "resolved_at IS NULL",
        "open_created_at",
        "BIGINT",
    )


def downgrade() -> None:
    """Forget them."""
    steps.drop_partial_index("ix_billing_dead_letters_open", "billing_dead_letters", "open_created_at")
    steps.drop_table("billing_reconciliations")
