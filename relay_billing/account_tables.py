"""The account tables, with new-api's own names, and what all tables share; all money is 64-bit quota (semantics §1)."""

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, Table, false, text

from relay_billing.column_types import words

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMING)

# SQLite numbers rows by itself only in an INTEGER column, which is 64-bit there.
RowId = BigInteger().with_variant(Integer, "sqlite")


def amount(name: str) -> Column[int]:
    """A column of quota, 0 where nothing is said."""
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


users = Table(
    "users",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("username", words(64), nullable=False, server_default=""),
    amount("quota"),
    amount("used_quota"),
    amount("request_count"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("user_id", BigInteger, nullable=False, index=True),
    Column("key", words(128), nullable=False, server_default=""),
    Column("name", words(128), nullable=False, server_default=""),
    Column("status", Integer, nullable=False, server_default=text("1")),
    amount("remain_quota"),
    amount("used_quota"),
    Column("unlimited_quota", Boolean, nullable=False, server_default=false()),
)

subscription_plans = Table(
    "subscription_plans",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("title", words(128), nullable=False, server_default=""),
    Column("quota_reset_period", words(16), nullable=False, server_default="never"),
    amount("quota_reset_custom_seconds"),
)

user_subscriptions = Table(
    "user_subscriptions",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("user_id", BigInteger, nullable=False, index=True),
    amount("plan_id"),
    amount("amount_total"),
    amount("amount_used"),
    Column("status", words(32), nullable=False, server_default="active"),
    amount("start_time"),
    amount("end_time"),
    amount("last_reset_time"),
    amount("next_reset_time"),
)

ACCOUNT_TABLES = ("users", "tokens", "subscription_plans", "user_subscriptions")
"""Tables that may be there already, made by the relay."""
