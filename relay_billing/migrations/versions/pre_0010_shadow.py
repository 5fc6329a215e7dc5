"""Sessions and ledger rows that a shadow has written, marked; and what it would have refused."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.column_types import exact, long_words, words
from relay_billing.migrations.steps import steps

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

MARKED = ("billing_sessions", "billing_ledger")


def upgrade() -> None:
    """Add two columns with a constant default, which rewrites no row, and a table: older code goes on beside them."""
    for table in MARKED:
        steps.add_column(table, sa.Column("shadow", sa.Boolean(), server_default=sa.false(), nullable=False))
    steps.create_table(
        "billing_shadow_refusals",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("request_id", exact(64), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("token_id", sa.BigInteger(), nullable=True),
        sa.Column("quota", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("model_name", words(255), nullable=False),
        sa.Column("code", exact(64), nullable=False),
        sa.Column("detail", long_words(), nullable=False),
        sa.Column("funds", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_billing_shadow_refusals")),
    )
    steps.create_index(
        steps.f("ix_billing_shadow_refusals_created_at"), "billing_shadow_refusals", ["created_at"], unique=False
    )


def downgrade() -> None:
    """Remove what a shadow has written: without its mark it would count as moved."""
    steps.drop_index(steps.f("ix_billing_shadow_refusals_created_at"), table_name="billing_shadow_refusals")
    steps.drop_table("billing_shadow_refusals")
    for table in MARKED:
        if steps.has_column(table, "shadow"):
            steps.execute(sa.text(f"DELETE FROM {table} WHERE shadow"))
        steps.drop_column(table, "shadow")
