"""The differences between databases that SQLAlchemy Core does not cover."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Insert as CoreInsert
from sqlalchemy import Table, Update
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite as lite
from sqlalchemy.exc import DBAPIError

from relay_billing.store.commands import Command, Rows
from relay_billing.store.fast_paths import FastPaths

Insert = pg.Insert | lite.Insert


def _never(_: DBAPIError) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the ledger uses one kind of database."""

    name: str
    insert: Callable[[Table], Insert]
    opening: tuple[str, ...]
    """Statements that set a new connection up, in autocommit, before its first transaction."""
    begin: str | None
    """The statement that begins a transaction; None: the driver's default."""
    begin_reading: str | None
    """The statement that begins a read-only transaction, which never waits for a writer; None: the driver's default."""
    many: Callable[[CoreInsert | Update, Rows], Command]
    """Makes the command that runs a constant statement for many rows; its parameters are the rows' keys."""
    fast: FastPaths | None
    """None: there are none; the general path decides everything."""
    transient: Callable[[DBAPIError], bool]
    """Whether the same transaction, tried again, may succeed."""
    stale: Callable[[DBAPIError], bool] = _never
    """Whether the next attempt needs a connection that was made after this error; unset: never."""
    one_writer: bool = False
    """Whether only one transaction can write at a time; unset: any number."""
