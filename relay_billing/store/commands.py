"""What the generators of this floor yield and are sent."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Executable, Insert, RowMapping, Update

T = TypeVar("T")
Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Command:
    """One statement, with one set of parameters or a list of them."""

    statement: Executable
    parameters: Mapping[str, object] | Rows | None = None
    touches: int | None = None
    """Rows that it must touch; None: as many as it likes."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command brought: its rows, or how many rows it touched."""

    rows: Sequence[RowMapping]
    count: int


Steps = Generator[Sequence[Command], Sequence[Reply], T]
"""A transaction: yields lists of commands, is sent a list of replies for each, returns what came of it."""
Load = Steps[None]


def row_by_row(statement: Insert | Update, rows: Rows) -> Command:
    """One statement, sent with many sets of parameters: what every driver can do."""
    return Command(statement, rows, len(rows) if isinstance(statement, Update) else None)
