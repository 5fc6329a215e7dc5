"""Sessions and ledger rows that a shadow has written, marked; and what it would have refused."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

MARKED = ("billing_sessions", "billing_ledger")


def upgrade() -> None:
    """Add two columns with a constant default, which rewrites no row, and a table: older code goes on beside them."""
    for table in MARKED:
        op.add_column(table, sa.Column("shadow", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "billing_shadow_refusals",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("token_id", sa.BigInteger(), nullable=True),
        sa.Column("quota", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("funds", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_shadow_refusals")),
    )
    op.create_index(
        op.f("ix_billing_shadow_refusals_created_at"), "billing_shadow_refusals", ["created_at"], unique=False
    )


def downgrade() -> None:
    """Remove what a shadow has written: without its mark it would count as moved."""
    op.drop_index(op.f("ix_billing_shadow_refusals_created_at"), table_name="billing_shadow_refusals")
    op.drop_table("billing_shadow_refusals")
    for table in MARKED:
        op.execute(sa.text(f"DELETE FROM {table} WHERE shadow"))
        op.drop_column(table, "shadow")
