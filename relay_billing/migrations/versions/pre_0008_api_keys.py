"""The keys of the HTTP door."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Add a table: older code goes on beside it."""
    op.create_table(
        "billing_api_keys",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_api_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_billing_api_keys_sha256")),
    )
    unrevoked = sa.text("revoked_at IS NULL")
    op.create_index(
        "uq_billing_api_keys_unrevoked",
        "billing_api_keys",
        ["name"],
        unique=True,
        postgresql_where=unrevoked,
        sqlite_where=unrevoked,
    )


def downgrade() -> None:
    """Forget it: no key opens a door any more."""
    op.drop_table("billing_api_keys")
