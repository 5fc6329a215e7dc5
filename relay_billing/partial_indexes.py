"""Indexes of only those rows that meet a condition, and the expressions that are found by them.

PostgreSQL and SQLite have them. MySQL and MariaDB have not: there an index is on a virtual column, which is NULL in all
other rows, and an expression must name that column to be found by it.
"""

from typing import Any, TypeVar

from sqlalchemy import Boolean, Column, ColumnElement, Connection, Index, Table, event, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TypeEngine

from relay_billing.column_types import MYSQL

T = TypeVar("T")


class FoundBy(FunctionElement[T]):
    """An expression; MySQL and MariaDB get the other one, `virtual`, which names a virtual column."""

    name = "found_by"
    inherit_cache = True

    def __init__(self, expression: ColumnElement[T], virtual: str) -> None:
        # Not Boolean: where there is none, SQLAlchemy would compare with 1, and no index would be found.
        self.type: TypeEngine[Any] = NullType() if isinstance(expression.type, Boolean) else expression.type
        super().__init__(expression, literal_column(virtual, expression.type))


@compiles(FoundBy)
def _expression(element: FoundBy[Any], compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    expression, _ = element.clauses
    return compiler.process(expression, **options)


def _virtual(element: FoundBy[Any], compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    _, virtual = element.clauses
    return compiler.process(virtual, **options)


for _name in MYSQL:
    compiles(FoundBy, _name)(_virtual)


def virtual_index(name: str, table: str, column: str, where: str, virtual: str, kind: str, unique: bool) -> str:
    """The statement for MySQL and MariaDB: adds the column `virtual`, of type `kind`, and its index."""
    value = f"CASE WHEN {where} THEN {column} END"
    index = "UNIQUE INDEX" if unique else "INDEX"
    return f"ALTER TABLE {table} ADD COLUMN {virtual} {kind} AS ({value}) VIRTUAL, ADD {index} {name} ({virtual})"


def partial_index(
    name: str,
    column: Column[Any],
    where: ColumnElement[bool],
    virtual: str,
    kind: str = "BIGINT",
    *,
    unique: bool = False,
) -> None:
    """Index the rows of `column`'s table that meet `where`. `virtual`: the virtual column's name, `kind`: its type."""
    Index(name, column, unique=unique, postgresql_where=where, sqlite_where=where).ddl_if(
        callable_=lambda *_, dialect, **__: dialect.name not in MYSQL
    )

    def add(table: Table, connection: Connection, **_: object) -> None:
        if connection.dialect.name in MYSQL:
            compiler = connection.dialect.statement_compiler(connection.dialect, None)
            condition = compiler.process(where, include_table=False, literal_binds=True)
            made = virtual_index(name, table.name, column.name, condition, virtual, kind, unique)
            connection.exec_driver_sql(made.replace("%", "%%"))

    event.listen(column.table, "after_create", add)
