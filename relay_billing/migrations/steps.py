"""The steps of migrations, which can be run again where the database keeps a part of what it could not finish.

MySQL and MariaDB commit each step by itself, SQLite may: a migration that broke off is begun anew, and finds the steps
that it had done. On PostgreSQL a migration is one transaction, so there is nothing to find.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from relay_billing.column_types import MYSQL
from relay_billing.partial_indexes import virtual_index


class Steps:
    """As Alembic's `op`; leaves out what is done already, where a migration is not one transaction."""

    def __init__(self) -> None:
        self.f = op.f
        self.get_bind = op.get_bind
        self.execute = op.execute

    def create_table(self, name: str, *columns: sa.schema.SchemaItem) -> None:
        """Make a table."""
        if not self._has_table(name):
            op.create_table(name, *columns)

    def drop_table(self, name: str) -> None:
        """Drop a table with its indexes."""
        if not self._resumes() or self._has_table(name):
            op.drop_table(name)

    def add_column(self, table: str, column: sa.Column[Any]) -> None:
        """Add a column."""
        if not self._has_column(table, column.name):
            op.add_column(table, column)

    def drop_column(self, table: str, name: str) -> None:
        """Drop a column, and on MySQL its index."""
        if not self._resumes() or self._has_column(table, name):
            op.drop_column(table, name)

    def create_index(self, name: str, table: str, columns: Sequence[str], **options: Any) -> None:  # noqa: ANN401
        """Make an index."""
        if not self._has_index(table, name):
            op.create_index(name, table, columns, **options)

    def drop_index(self, name: str, *, table_name: str) -> None:
        """Drop an index."""
        if not self._resumes() or self._has_index(table_name, name):
            op.drop_index(name, table_name=table_name)

    def partial_index(
        self, name: str, table: str, column: str, where: str, virtual: str, kind: str, unique: bool = False
    ) -> None:
        """Index the rows that meet `where`; on MySQL and MariaDB, the virtual column `virtual` (`partial_indexes`)."""
        if op.get_bind().dialect.name in MYSQL:
            if not self._has_index(table, name):
                op.execute(virtual_index(name, table, column, where, virtual, kind, unique))
            return
        condition = sa.text(where)
        self.create_index(name, table, [column], unique=unique, postgresql_where=condition, sqlite_where=condition)

    def drop_partial_index(self, name: str, table: str, virtual: str) -> None:
        """Drop what `partial_index` has made."""
        if op.get_bind().dialect.name not in MYSQL:
            self.drop_index(name, table_name=table)
        elif self.has_column(table, virtual):
            op.execute(f"ALTER TABLE {table} DROP INDEX {name}, DROP COLUMN {virtual}")

    def has_column(self, table: str, name: str) -> bool:
        """Whether the table has the column."""
        inspector = sa.inspect(op.get_bind())
        return inspector.has_table(table) and name in {each["name"] for each in inspector.get_columns(table)}

    def _resumes(self) -> bool:
        return not op.get_context().impl.transactional_ddl

    def _has_table(self, name: str) -> bool:
        return self._resumes() and sa.inspect(op.get_bind()).has_table(name)

    def _has_column(self, table: str, name: str) -> bool:
        return self._resumes() and self.has_column(table, name)

    def _has_index(self, table: str, name: str) -> bool:
        if not self._has_table(table):
            return False
        return name in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}


steps = Steps()
