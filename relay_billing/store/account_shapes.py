"""What is known of the account tables: whose they are, which columns they have beside ours, what these hold (§12)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Boolean, ColumnClause, ColumnElement, DateTime, Select, column, select, table
from sqlalchemy.types import TypeEngine

from relay_billing.domain.limits import ALL_64, INT64, Limits
from relay_billing.schema import ACCOUNT_TABLES

BITS = {
    "tinyint": 8,
    "smallint": 16,
    "mediumint": 24,
    "int": 32,
    "integer": 32,
}
"""Types that hold less than 64 bits, as information_schema names them. On SQLite, every integer has 64."""
INTEGERS = (*BITS, "bigint")

OPTIONAL: dict[str, dict[str, TypeEngine[Any]]] = {
    "users": {"status": BigInteger(), "deleted_at": DateTime()},
    "tokens": {
        "status": BigInteger(),
        "deleted_at": DateTime(),
        "expired_time": BigInteger(),
        "accessed_time": BigInteger(),
    },
    "subscription_plans": {"allow_wallet_overflow": Boolean()},
    "user_subscriptions": {"allow_wallet_overflow": Boolean(), "updated_at": BigInteger()},
}
"""Columns of a relay's tables that are used where they exist, beside those of `schema`."""
KEPT = ("accessed_time", "updated_at")
"""Columns that are set to the time of our writes, in Unix seconds; only where they hold integers."""
_LIMITED = {
    "wallet": "users.quota",
    "usage": "users.used_quota",
    "requests": "users.request_count",
    "token": "tokens.remain_quota",
    "token_used": "tokens.used_quota",
    "subscription": "user_subscriptions.amount_used",
}


@dataclass(frozen=True, slots=True)
class AccountShape:
    """How the account tables are read and written. Unset: they are ours, and so is the calendar."""

    foreign: bool = False
    """They are a relay's: amounts, times and flags may be NULL, which counts as 0."""
    columns: frozenset[str] = frozenset()
    """Optional columns that exist, as `users.status`."""
    limits: Limits = ALL_64
    external: bool = False
    """Periods and status of subscriptions are never written."""

    def has(self, name: str) -> bool:
        """Whether the optional column `table.column` exists."""
        return name in self.columns


OWN = AccountShape()


def listed(schema: ColumnElement[str]) -> Select[Any]:
    """Lists the columns of the account tables with their types; `schema`: the one that unqualified names mean."""
    names: tuple[ColumnClause[str], ...] = (column("table_name"), column("column_name"), column("data_type"))
    within: ColumnClause[str] = column("table_schema")
    found = table("columns", *names, within, schema="information_schema")
    # MySQL gives these columns names in capitals, unless they are asked for by others.
    rows = select(*(found.c[each.name].label(each.name) for each in names))
    return rows.where(found.c.table_schema == schema, found.c.table_name.in_(ACCOUNT_TABLES))


def shape_of(rows: Sequence[tuple[str, str, str]], *, external: bool) -> AccountShape:
    """The shape of a relay's tables. `rows`: table, column and type, as `listed` lists them."""
    types = {f"{of}.{name}": kind.lower() for of, name, kind in rows}
    optional = {f"{of}.{name}" for of, columns in OPTIONAL.items() for name in columns}
    known = {name for name in optional & set(types) if name.rpartition(".")[2] not in KEPT or types[name] in INTEGERS}
    bits = {field_: BITS.get(types.get(name, ""), 64) for field_, name in _LIMITED.items()}
    limits = Limits(**{field_: min(INT64, 2 ** (width - 1) - 1) for field_, width in bits.items()})
    return AccountShape(True, frozenset(known), limits, external)
