"""Room on the pages of rows that change often, so that their new versions stay beside the old ones, off the indexes."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.migrations.steps import steps

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

ACCOUNT_TABLES = ("users", "tokens", "user_subscriptions")
TABLES = (*ACCOUNT_TABLES, "billing_sessions")


def _tables_here() -> list[str]:
    """Those that are tables of this database, and ours: a relay's accounts may be views, and are left as they are."""
    there = set(sa.inspect(steps.get_bind()).get_table_names())
    # Ours have no column for the end of a token.
    foreign = "tokens" in there and steps.has_column("tokens", "expired_time")
    return [each for each in TABLES if each in there and not (foreign and each in ACCOUNT_TABLES)]


def upgrade() -> None:
    """Pages written from now on keep room; rows that are there already gain it as they move."""
    if steps.get_bind().dialect.name == "postgresql":
        for table in _tables_here():
            steps.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")


def downgrade() -> None:
    """Full pages again."""
    if steps.get_bind().dialect.name == "postgresql":
        for table in _tables_here():
            steps.execute(f"ALTER TABLE {table} RESET (fillfactor)")
