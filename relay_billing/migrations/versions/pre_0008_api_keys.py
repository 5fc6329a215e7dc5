"""The keys of the HTTP door."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.column_types import exact
from relay_billing.migrations.steps import steps

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add a table: older code goes on beside it."""
    steps.create_table(
        "billing_api_keys",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", exact(64), nullable=False),
        sa.Column("sha256", exact(64), nullable=False),
        sa.Column("scopes", exact(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=steps.f("pk_billing_api_keys")),
        sa.UniqueConstraint("sha256", name=steps.f("uq_billing_api_keys_sha256")),
    )
    steps.partial_index(
        "uq_billing_api_keys_unrevoked",
        "billing_api_keys",
        "name",
        "revoked_at IS NULL",
        "unrevoked_name",
        "VARBINARY(256)",
        unique=True,
    )


def downgrade() -> None:
    """Forget it: no key opens a door any more."""
    steps.drop_table("billing_api_keys")
