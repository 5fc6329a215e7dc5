"""When periodic work was last done; jobs that wait for their session."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add two tables: older code goes on beside them."""
    op.create_table(
        "billing_heartbeats",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_billing_heartbeats")),
    )
    op.create_table(
        "billing_strays",
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=64), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_billing_strays")),
    )
    op.create_index(op.f("ix_billing_strays_at"), "billing_strays", ["at"], unique=False)


def downgrade() -> None:
    """Forget them. Jobs that wait for their session are in messages, too."""
    op.drop_table("billing_strays")
    op.drop_table("billing_heartbeats")
