"""Room on the pages of rows that change often, so that their new versions stay beside the old ones, off the indexes."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

ACCOUNT_TABLES = ("users", "tokens", "user_subscriptions")
TABLES = (*ACCOUNT_TABLES, "billing_sessions")


def _tables_here() -> list[str]:
    """Those that are tables of this database, and ours: a relay's accounts may be views, and are left as they are."""
    found = sa.inspect(op.get_bind())
    there = set(found.get_table_names())
    # Ours have no column for the end of a token.
    foreign = "tokens" in there and "expired_time" in {each["name"] for each in found.get_columns("tokens")}
    return [each for each in TABLES if each in there and not (foreign and each in ACCOUNT_TABLES)]


def upgrade() -> None:
    """Pages written from now on keep room; rows that are there already gain it as they move."""
    if op.get_bind().dialect.name == "postgresql":
        for table in _tables_here():
            op.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")


def downgrade() -> None:
    """Full pages again."""
    if op.get_bind().dialect.name == "postgresql":
        for table in _tables_here():
            op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
