"""Movements that a relay's caches have not heard of yet."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.column_types import exact
from relay_billing.migrations.steps import steps

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add a table: older code goes on beside it."""
    steps.create_table(
        "billing_cache_deltas",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("account_type", exact(16), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_billing_cache_deltas")),
    )


def downgrade() -> None:
    """Forget it: the balances themselves are in the account tables."""
    steps.drop_table("billing_cache_deltas")
