"""When periodic work was last done; jobs that wait for their session."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.column_types import exact, long_words
from relay_billing.migrations.steps import steps

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add two tables: older code goes on beside them."""
    steps.create_table(
        "billing_heartbeats",
        sa.Column("name", exact(32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=steps.f("pk_billing_heartbeats")),
    )
    steps.create_table(
        "billing_strays",
        sa.Column("fingerprint", exact(64), nullable=False),
        sa.Column("task", exact(64), nullable=False),
        sa.Column("job", long_words(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=steps.f("pk_billing_strays")),
    )
    steps.create_index(steps.f("ix_billing_strays_at"), "billing_strays", ["at"], unique=False)


def downgrade() -> None:
    """Forget them. Jobs that wait for their session are in messages, too."""
    steps.drop_table("billing_strays")
    steps.drop_table("billing_heartbeats")
