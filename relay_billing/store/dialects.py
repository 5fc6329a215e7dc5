"""What the ledger needs to know of a database beyond what SQLAlchemy Core says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Insert as CoreInsert
from sqlalchemy import Table, Update
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite as lite
from sqlalchemy.exc import DBAPIError

from relay_billing.domain.holds import Assumed
from relay_billing.domain.sessions import BillingSession
from relay_billing.store.commands import Command, Rows

Insert = pg.Insert | lite.Insert


@dataclass(frozen=True, slots=True)
class AtOnce:
    """A use case in one statement that commits itself. It brings one row, or none where the general path decides."""

    statement: str
    parameters: Mapping[str, object]
    session_of: Callable[[tuple[Any, ...]], BillingSession]
    """The session that the row stands for."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One database's own ways."""

    name: str
    insert: Callable[[Table], Insert]
    opening: tuple[str, ...]
    """Statements before a transaction, in autocommit."""
    begin: str | None
    """How a transaction begins; None: as the driver does it."""
    many: Callable[[CoreInsert | Update, Rows], Command]
    """How one statement is carried out for many rows: a constant statement whose parameters are the rows' keys."""
    hold_at_once: Callable[[Assumed, int], AtOnce] | None
    """One statement that takes a usual hold at a time (Unix seconds) and commits it; None: there is none."""
    transient: Callable[[DBAPIError], bool]
    """Whether the same transaction, tried again, may succeed."""
