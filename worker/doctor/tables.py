"""The tables that billing touches, as they are."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Integer, inspect
from sqlalchemy.types import BigInteger, SmallInteger, TypeEngine

from relay_billing.schema import ACCOUNT_TABLES

_SMALL = {"TINYINT": 8, "MEDIUMINT": 24}
"""MySQL's own widths, in bits."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    type: str
    """As the database calls it."""
    nullable: bool
    bits: int | None
    """Width of an integer; None: it holds no integers."""
    unsigned: bool = False


@dataclass(frozen=True, slots=True)
class Tables:
    """What there is; tables that are neither accounts nor ours are not looked into."""

    names: frozenset[str]
    columns: Mapping[str, Mapping[str, Column]]
    """Of account tables and of ours."""
    unique: Mapping[str, frozenset[str]]
    """Of account tables: columns of which the database itself keeps every value unique."""

    @property
    def accounts(self) -> tuple[str, ...]:
        """The account tables that there are."""
        return tuple(name for name in ACCOUNT_TABLES if name in self.columns)

    @property
    def foreign(self) -> bool:
        """Whether the account tables are a relay's: ours have no column for the end of a token."""
        return "expired_time" in self.columns.get("tokens", {})


def _bits(given: TypeEngine[object], *, sqlite: bool) -> int | None:
    if not isinstance(given, Integer):
        return None
    if sqlite or isinstance(given, BigInteger):
        # SQLite's integers are 64-bit, whatever a column is called.
        return 64
    return 16 if isinstance(given, SmallInteger) else _SMALL.get(type(given).__name__, 32)


def tables_of(connection: Connection) -> Tables:
    """Read what there is. Raises SQLAlchemy's errors."""
    found = inspect(connection)
    names = frozenset(found.get_table_names())
    looked = [name for name in sorted(names) if name in ACCOUNT_TABLES or name.startswith("billing_")]
    sqlite = connection.dialect.name == "sqlite"
    columns = {
        name: {
            each["name"]: Column(
                each["type"].compile(connection.dialect),
                bool(each["nullable"]),
                _bits(each["type"], sqlite=sqlite),
                bool(getattr(each["type"], "unsigned", False)),
            )
            for each in found.get_columns(name)
        }
        for name in looked
    }
    unique = {}
    for name in (each for each in looked if each in ACCOUNT_TABLES):
        keys = [tuple(found.get_pk_constraint(name)["constrained_columns"])]
        keys += [tuple(map(str, each["column_names"])) for each in found.get_indexes(name) if each["unique"]]
        keys += [tuple(each["column_names"]) for each in found.get_unique_constraints(name)]
        unique[name] = frozenset(str(key[0]) for key in keys if len(key) == 1)
    return Tables(names, columns, unique)
