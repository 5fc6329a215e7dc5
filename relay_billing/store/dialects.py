"""The differences between databases that SQLAlchemy Core does not cover."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Column, Executable, Insert, Table, Update, func
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite as lite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from relay_billing.store.account_shapes import OWN, AccountShape, listed
from relay_billing.store.account_statements import AccountStatements, account_statements
from relay_billing.store.commands import Command, Rows
from relay_billing.store.fast_paths import FastPaths

Assigned = Callable[[ReadOnlyColumnCollection[str, Any]], Mapping[str, object]]
"""Makes what an upsert assigns to a row that is there already, by column, of the row that was to be inserted.

Nothing: that row stays as it is.
"""
_LISTED = listed(func.database())
_OWN_STATEMENTS = account_statements(OWN)


def on_conflict(insert: Callable[[Table], pg.Insert | lite.Insert]) -> Callable[[Column[str], Assigned, Rows], Command]:
    """The upsert of PostgreSQL and SQLite, made of the one's or the other's INSERT."""

    def upsert(key: Column[str], assigned: Assigned, rows: Rows) -> Command:
        made = insert(key.table)
        values = assigned(made.excluded)
        if not values:
            return Command(made.on_conflict_do_nothing(index_elements=[key]), rows)
        return Command(made.on_conflict_do_update(index_elements=[key], set_=values), rows)

    return upsert


def _never(_: DBAPIError) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the ledger uses one kind of database."""

    name: str
    upsert: Callable[[Column[str], Assigned, Rows], Command]
    """Makes the command that inserts rows into a unique column's table; a row that is there is updated instead."""
    claim: Callable[[str], Command | None]
    """Makes the command that locks a name until the transaction ends; None: there is only one writer anyway."""
    opening: tuple[str, ...]
    """Statements that set a new connection up, in autocommit, before its first transaction."""
    begin: str | None
    """The statement that begins a transaction; None: the driver's default."""
    begin_reading: str | None
    """The statement that begins a read-only transaction, which never waits for a writer; None: the driver's default."""
    many: Callable[[Insert | Update, Rows], Command]
    """Makes the command that runs a constant statement for many rows; its parameters are the rows' keys."""
    fast: FastPaths | None
    """None: there are none; the general path decides everything."""
    transient: Callable[[DBAPIError], bool]
    """Whether the same transaction, tried again, may succeed."""
    stale: Callable[[DBAPIError], bool] = _never
    """Whether the next attempt needs a connection that was made after this error; unset: never."""
    one_writer: bool = False
    """Whether only one transaction can write at a time; unset: any number."""
    columns: Executable = _LISTED
    """Lists the columns of the account tables: table, name, type, as MySQL does it if unset."""
    fast_for: Callable[[AccountShape], FastPaths] | None = None
    """Makes `fast` for tables of another shape; None: then there are none."""
    shape: AccountShape = OWN
    accounts: AccountStatements = _OWN_STATEMENTS
    """The statements on account tables of this shape."""

    def shaped(self, shape: AccountShape) -> "Dialect":
        """The same for account tables of this shape."""
        fast = self.fast_for(shape) if self.fast is not None and self.fast_for is not None else None
        return replace(self, shape=shape, accounts=account_statements(shape), fast=fast)
