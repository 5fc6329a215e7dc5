"""Takes row locks in the order of the rows' ids, and no others: MySQL and MariaDB do neither by themselves.

PostgreSQL sorts the rows, then locks them. MySQL and MariaDB lock rows as their plan meets them, and sort them later:
found by another index than the primary key, or by a subquery, that may be any order; and a small table is read from end
to end, so that a transaction waits for rows that it does not want.
"""

import json
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    FromClause,
    Join,
    Select,
    String,
    Text,
    TypeDecorator,
    bindparam,
    column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BooleanClauseList
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from relay_billing.column_types import BYTES_OF_A_CHARACTER, MYSQL
from relay_billing.store.ids import Id, among

encoded = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
"""Rows or ids as the one parameter of a JSON_TABLE."""

BY_KEY = "FORCE INDEX (PRIMARY)"
"""Of a small table, all rows would be read and locked instead."""


def json_kind(of: TypeEngine[Any]) -> str:
    """A column's type in a JSON_TABLE, where a text that is too long is cut without a word: room for one more."""
    return f"VARBINARY({BYTES_OF_A_CHARACTER * ((of.length or 0) + 1)})" if isinstance(of, String) else "BIGINT"


class _JsonIds(TypeDecorator[list[Id]]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: list[Id] | None, dialect: Dialect) -> str:
        return encoded(value)


class _ids_listed(FunctionElement[Any]):  # noqa: N801
    """The ids of the parameter `ids`, as a table."""

    name = "ids_listed"
    inherit_cache = False

    def __init__(self, of: TypeEngine[Any]) -> None:
        self.of = of
        super().__init__(bindparam("ids", type_=_JsonIds()))


class _Straight(Join):
    """A join that reads its left side first, and looks each row of the right one up by its primary key."""

    inherit_cache = True


def _listed(element: _ids_listed, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    (ids,) = element.clauses
    return f"JSON_TABLE({compiler.process(ids)}, '$[*]' COLUMNS (id {json_kind(element.of)} PATH '$'))"


def _join(element: _Straight, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    left, right = (compiler.process(side, **{**options, "asfrom": True}) for side in (element.left, element.right))
    assert element.onclause is not None
    return f"{left} STRAIGHT_JOIN {right} {BY_KEY} ON {compiler.process(element.onclause, **options)}"


for _name in MYSQL:
    compiles(_Straight, _name)(_join)
    compiles(_ids_listed, _name)(_listed)


def _found_by(rows: Select[Any]) -> tuple[list[ColumnElement[bool]], Column[Any]] | None:
    """The conditions of a statement that locks rows of one table, and the table's primary key; None: it locks none."""
    locking, where = rows._for_update_arg, rows.whereclause
    if locking is None or locking.skip_locked or where is None:
        return None
    (table,) = rows.get_final_froms()
    (key,) = table.primary_key
    assert isinstance(key, Column)
    return list(where.clauses) if isinstance(where, BooleanClauseList) else [where], key


def _names(each: ColumnElement[bool], column: Column[Any]) -> bool:
    return isinstance(each, among) and next(iter(each.clauses)) is column


def asked_before(rows: Select[Any]) -> Select[Any] | None:
    """Reads whether there is any row to lock, where rows are found by another column than the key; None: no need to.

    Most users have no subscription. Of the statement that locks them in order, and the one that reads their plans, each
    takes as long as a round trip.
    """
    found = _found_by(rows)
    if found is None or not isinstance(found[0][0], among) or _names(found[0][0], found[1]):
        return None
    return select(found[1]).where(*found[0]).limit(1)


def in_order(rows: Select[Any], *, one: bool) -> Select[Any]:
    """The same rows of one table, locked in the order of their ids; a statement that locks nothing stays as it is.

    `one`: the list of ids has one. A primary key alone is looked up; of several, and of ids that are found in another
    way, first without locks, each is looked up in turn, and looked at again.
    """
    found = _found_by(rows)
    if found is None:
        return rows
    parts, key = found
    by_key = any(_names(each, key) for each in parts)
    if by_key and one:
        return rows
    wanted: FromClause
    if by_key:
        wanted = _ids_listed(key.type).table_valued(column("id", key.type), name="wanted")
    else:
        # DISTINCT: else it would be merged into the outer statement, and be no list of its own.
        wanted = select(key.label("id")).where(*parts).distinct().subquery("wanted")
    again = [each for each in parts if not any(isinstance(part, among) for part in visitors.iterate(each))]
    joined = _Straight(wanted, key.table, wanted.c.id == key)
    ordered = select(*rows.selected_columns).select_from(joined).where(*again).order_by(wanted.c.id)
    return ordered.with_for_update()
