"""Takes row locks in the order of the rows' ids, which MySQL and MariaDB do not by themselves.

PostgreSQL sorts the rows, then locks them. MySQL and MariaDB lock rows in the order in which their plan meets them, and
sort them afterwards: found by another index than the primary key, or by a subquery, that may be any order.
"""

from typing import Any

from sqlalchemy import Join, Select, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BooleanClauseList

from relay_billing.column_types import MYSQL
from relay_billing.store.ids import among


class _Straight(Join):
    """A join that reads its left side first."""

    inherit_cache = True


def _join(element: _Straight, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    left, right = (compiler.process(side, **{**options, "asfrom": True}) for side in (element.left, element.right))
    assert element.onclause is not None
    return f"{left} STRAIGHT_JOIN {right} ON {compiler.process(element.onclause, **options)}"


for _name in MYSQL:
    compiles(_Straight, _name)(_join)


def in_order(rows: Select[Any]) -> Select[Any]:
    """The same rows of one table, locked in the order of their ids; a statement that locks nothing stays as it is.

    A list of primary keys is read as ranges of that key, in its order. Otherwise the ids are read first, without locks,
    and sorted; then each row is locked in turn, and looked at again.
    """
    locking, where = rows._for_update_arg, rows.whereclause
    if locking is None or locking.skip_locked or where is None:
        return rows
    (table,) = rows.get_final_froms()
    (key,) = table.primary_key
    parts = list(where.clauses) if isinstance(where, BooleanClauseList) else [where]
    if any(isinstance(each, among) and next(iter(each.clauses)) is key for each in parts):
        return rows
    # DISTINCT: else it would be merged into the outer statement, and be no list of its own.
    wanted = select(key.label("id")).where(where).distinct().subquery("wanted")
    again = [each for each in parts if not any(isinstance(part, among) for part in visitors.iterate(each))]
    joined = _Straight(wanted, table, wanted.c.id == key)
    ordered = select(*rows.selected_columns).select_from(joined).where(*again).order_by(wanted.c.id)
    return ordered.with_for_update()
