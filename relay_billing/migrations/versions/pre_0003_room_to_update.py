"""Room on the pages of rows that change often, so that their new versions stay beside the old ones, off the indexes."""

from collections.abc import Sequence

import sqlalchemy as sa

from relay_billing.migrations.steps import steps

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = ("users", "tokens", "user_subscriptions", "billing_sessions")


def _tables_here() -> list[str]:
    """Those that are tables of this database: a relay's own accounts may be views."""
    there = set(sa.inspect(steps.get_bind()).get_table_names())
    return [each for each in TABLES if each in there]


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
