"""MySQL 8.0 and MariaDB 10.6, and later, through PyMySQL and aiomysql."""

import json
from functools import lru_cache
from typing import Any
from zlib import crc32

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Insert,
    String,
    TextClause,
    Update,
    column,
    func,
    table,
    text,
)
from sqlalchemy.dialects.mysql import insert
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.visitors import ExternallyTraversible
from sqlalchemy.types import TypeEngine

from relay_billing.column_types import BYTES_OF_A_CHARACTER
from relay_billing.schema import billing_heartbeats
from relay_billing.store.account_shapes import KEPT, OPTIONAL, listed
from relay_billing.store.commands import Command, Rows
from relay_billing.store.dialects import Assigned, Dialect
from relay_billing.store.mysql_failures import afresh, again

CLAIMS = 64
"""Rows of heartbeats that names are claimed by: two names that share one wait for each other."""
_NAMED = MySQLDialect_pymysql(paramstyle="named")
_encoded = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def _kind(of: TypeEngine[Any]) -> str:
    """A column's type in a JSON_TABLE, where a text that is too long is cut without a word: room for one more."""
    return f"VARBINARY({BYTES_OF_A_CHARACTER * ((of.length or 0) + 1)})" if isinstance(of, String) else "BIGINT"


@lru_cache(maxsize=64)
def _set_based(statement: Update, names: tuple[str, ...]) -> TextClause:
    """The same statement for a set of rows: its parameters become columns of that set, a JSON array of arrays.

    The set is read first, and each row of the table looked up by its key. Left to itself the server may read all of a
    small table instead, and so lock it.
    """
    found: dict[str, ColumnElement[object]] = {}

    def collect(each: BindParameter[object]) -> None:
        if each.key in names:
            found[each.key] = each

    visitors.traverse(statement, {}, {"bindparam": collect})
    given = table("given", *(column(name, found[name].type) for name in names))

    def replace(element: ExternallyTraversible, **_: object) -> ExternallyTraversible | None:
        return given.c[element.key] if isinstance(element, BindParameter) and element.key in names else None

    replaced = visitors.replacement_traverse(statement, {}, replace)
    assert isinstance(replaced, Update)
    compiled = replaced.compile(dialect=_NAMED)
    assert isinstance(compiled, SQLCompiler)
    columns = ", ".join(f"`{name}` {_kind(found[name].type)} PATH '$[{at}]'" for at, name in enumerate(names))
    of = statement.table.name  # type: ignore[union-attr]
    begun, ours = f"UPDATE {of}, given SET", f"UPDATE JSON_TABLE(:rows, '$[*]' COLUMNS ({columns})) AS given"
    words = str(compiled)
    assert words.startswith(begun), words
    inside = {name: value for name, value in compiled.params.items() if name not in names}
    return text(f"{ours} STRAIGHT_JOIN {of} SET{words.removeprefix(begun)}").bindparams(**inside)


def _many(statement: Insert | Update, rows: Rows) -> Command:
    """One statement for all rows: the drivers write the rows of an INSERT into one."""
    if isinstance(statement, Insert):
        return Command(statement, rows, constant=True)
    if len(rows) == 1:
        return Command(statement, dict(rows[0]), 1, constant=True)
    names = tuple(rows[0])
    listed_rows = _encoded([[row[name] for name in names] for row in rows])
    return Command(_set_based(statement, names), {"rows": listed_rows}, len(rows), constant=True)


def _upsert(key: Column[str], assigned: Assigned, rows: Rows) -> Command:
    # Not many sets of parameters: the drivers would take `VALUES(column)` for the rows that they put together.
    made = insert(key.table).values([dict(row) for row in rows])
    # Not IGNORE: it would take other errors for nothing, too.
    return Command(made.on_duplicate_key_update({**assigned(made.inserted)} or {key.name: key}))


def _claim(name: str) -> Command:
    """The lock of one row of heartbeats. Their own locks by name end with the connection, not the transaction."""
    row = {"name": f"claim {crc32(name.encode()) % CLAIMS}", "at": 0}
    return _upsert(billing_heartbeats.c.name, lambda _: {}, [row])


# An amount that a column can't hold must be an error, on whatever server. NO_BACKSLASH_ESCAPES stays: the driver looks
# at it; other modes of a server, such as ONLY_FULL_GROUP_BY, are not meant for our statements.
_MODES = "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
_OPENING = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION default_storage_engine = 'InnoDB', sql_mode = "
    f"IF(FIND_IN_SET('NO_BACKSLASH_ESCAPES', @@SESSION.sql_mode), '{_MODES},NO_BACKSLASH_ESCAPES', '{_MODES}')",
)
_GUARDS = {of: [name for name in names if name not in KEPT] for of, names in OPTIONAL.items()}
# information_schema hides from a role what it may not use, so a status of users that it may not read would count as
# missing, and be no guard. A column that is there but may not be read is an error here; one that is missing is taken
# from `absent`.
_SEEN = "(SELECT count(*) FROM (SELECT {}) AS absent WHERE FALSE AND {}) = 0".format(
    ", ".join(f"NULL AS {name}" for name in sorted({each for names in _GUARDS.values() for each in names})),
    " AND ".join(f"EXISTS (SELECT {', '.join(names)} FROM {of})" for of, names in _GUARDS.items()),
)
_COLUMNS = listed(func.database()).where(text(_SEEN))
MYSQL = Dialect("mysql", _upsert, _claim, _OPENING, None, None, _many, None, again, afresh, columns=_COLUMNS)
