"""Sessions by the time they were closed, in the index that finds them by the time they were made."""

from collections.abc import Sequence

from relay_billing.migrations.steps import steps

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLE = "billing_sessions"


def upgrade() -> None:
    """The new index first. Both are a few pages; the table is read once, and waits for it."""
    steps.create_index("ix_billing_sessions_times", TABLE, ["created_at", "closed_at"], postgresql_using="brin")
    steps.drop_index("ix_billing_sessions_created", table_name=TABLE)


def downgrade() -> None:
    """As before."""
    steps.create_index("ix_billing_sessions_created", TABLE, ["created_at"], postgresql_using="brin")
    steps.drop_index("ix_billing_sessions_times", table_name=TABLE)
