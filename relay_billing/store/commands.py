"""What the generators of this floor yield and are sent."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Executable, Insert, Update

T = TypeVar("T")
Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Command:
    """One statement, with one set of parameters or a list of them."""

    statement: Executable
    parameters: Mapping[str, object] | Rows | None = None
    touches: int | None = None
    """Rows that it must touch; None: as many as it likes."""
    constant: bool = False
    """The statement is one of a fixed few, compiled once; with its like it may be sent in one round trip."""


def constant(statement: Executable, **parameters: object) -> Command:
    """A constant statement with its parameters."""
    return Command(statement, parameters, constant=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command brought: its rows by column name, or how many rows it touched."""

    rows: Sequence[Mapping[str, Any]]
    count: int


Steps = Generator[Sequence[Command], Sequence[Reply], T]
"""A transaction: yields lists of commands, is sent a list of replies for each, returns what came of it."""
Load = Steps[None]


def row_by_row(statement: Insert | Update, rows: Rows) -> Command:
    """One statement, sent with many sets of parameters: what every driver can do."""
    return Command(statement, rows, len(rows) if isinstance(statement, Update) else None)
