"""What the generators of this floor yield and are sent."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Executable, RowMapping

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Command:
    """One statement, with one set of parameters or a list of them."""

    statement: Executable
    parameters: Mapping[str, object] | Sequence[Mapping[str, object]] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command brought: its rows, or how many rows it touched."""

    rows: Sequence[RowMapping]
    count: int


Steps = Generator[Sequence[Command], Sequence[Reply], T]
"""A transaction: yields lists of commands, is sent a list of replies for each, returns what came of it."""
Load = Steps[None]
