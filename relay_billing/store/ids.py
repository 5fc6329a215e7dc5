"""`column among ids`, with the list as one parameter: one statement text and one plan for lists of any length."""

import json
from typing import Any

from sqlalchemy import ColumnElement, Dialect, Text, TypeDecorator, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TypeEngine

from relay_billing.column_types import MYSQL

Id = int | str
_listed = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


class IdList(TypeDecorator[list[Id]]):
    """A list of ids: an array on PostgreSQL, JSON on SQLite; MySQL's drivers write a list as `(1, 2)` themselves."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        self.item = item
        super().__init__()

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type of the parameter in this dialect."""
        return dialect.type_descriptor(ARRAY(self.item) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: list[Id] | None, dialect: Dialect) -> Any:  # noqa: ANN401
        """The value as the driver takes it."""
        if dialect.name in MYSQL:
            # `IN ()` is no SQL there, and nothing is equal to NULL.
            return value or [None]
        return value if dialect.name == "postgresql" else _listed(value)


class among(FunctionElement[Any]):  # noqa: N801
    """Whether a column's value is one of the list that the parameter `name` holds."""

    # Not Boolean: SQLite has none, so SQLAlchemy would compare with 1, and no index could find the ids.
    type = NullType()
    name = "among"
    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], name: str) -> None:
        super().__init__(column, bindparam(name, type_=IdList(column.type)))


@compiles(among)
def _json(element: among, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    column, ids = element.clauses
    return f"{compiler.process(column, **options)} IN (SELECT value FROM json_each({compiler.process(ids, **options)}))"


@compiles(among, "postgresql")
def _array(element: among, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    column, ids = element.clauses
    return f"{compiler.process(column, **options)} = ANY ({compiler.process(ids, **options)})"


def _list(element: among, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    column, ids = element.clauses
    return f"{compiler.process(column, **options)} IN {compiler.process(ids, **options)}"


for _name in MYSQL:
    compiles(among, _name)(_list)
