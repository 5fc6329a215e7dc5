"""What the generators of this floor yield and are sent."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Executable

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

    @classmethod
    def of_constant(cls, statement: Executable, **parameters: object) -> "Command":
        """A constant statement with its parameters."""
        return cls(statement, parameters, constant=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command brought: its rows by column name, or how many rows it touched."""

    rows: Sequence[Mapping[str, Any]]
    count: int


@dataclass(frozen=True, slots=True)
class Alone:
    """One statement that commits itself, in the driver's own words: the fast path of a flow.

    It comes first, by itself, before a transaction begins. Its reply has no rows where it changed nothing, or where
    nobody can say: the general path follows, and meets what was committed after all as a replay. Where the transaction
    that follows has to be tried again, the flow is sent the same reply again, and the statement not carried out twice.
    """

    statement: str
    parameters: Mapping[str, object]
    names: tuple[str, ...]
    """Columns of its rows."""


Steps = Generator[Sequence[Command | Alone], Sequence[Reply], T]
"""A transaction: yields lists of commands, is sent a list of replies for each, returns what came of it."""
Load = Steps[None]
