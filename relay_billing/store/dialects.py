"""What the ledger needs to know of a database beyond what SQLAlchemy Core says."""

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
    """One database's own ways."""

    name: str
    insert: Callable[[Table], Insert]
    opening: tuple[str, ...]
    """Statements before the first transaction of a connection, in autocommit; they hold for as long as it lives."""
    begin: str | None
    """How a transaction begins; None: as the driver does it."""
    begin_reading: str | None
    """How one begins that only reads, and so never waits for a writer; None: as the driver does it."""
    many: Callable[[CoreInsert | Update, Rows], Command]
    """How one statement is carried out for many rows: a constant statement whose parameters are the rows' keys."""
    fast: FastPaths | None
    """None: there are none, and everything goes the general way."""
    transient: Callable[[DBAPIError], bool]
    """Whether the same transaction, tried again, may succeed."""
    stale: Callable[[DBAPIError], bool] = _never
    """Whether the next attempt needs a connection that was made after this error; unset: never."""
    one_writer: bool = False
    """Whether one transaction at a time writes: others wait for it, asleep; unset: as many as there are."""
