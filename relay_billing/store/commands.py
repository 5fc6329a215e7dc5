"""The commands that flows and loads yield, and the replies that they are sent."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Executable

from relay_billing.domain.errors import UpdateDataError

T = TypeVar("T")
Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Command:
    """One statement, with one set of parameters or a list of them."""

    statement: Executable
    parameters: Mapping[str, object] | Rows | None = None
    touches: int | None = None
    """Rows that it must change; None: any number."""
    constant: bool = False
    """The statement is one of a fixed set: compiled once, and sent in one round trip with other constant ones."""
    follows: bool = False
    """It reads what belongs to the rows of the command before it: where there are none, it need not be sent."""

    @classmethod
    def of_constant(cls, statement: Executable, **parameters: object) -> "Command":
        """A constant statement with its parameters."""
        return cls(statement, parameters, constant=True)

    @staticmethod
    def together(commands: Sequence["Command | Alone"]) -> bool:
        """Whether a list of commands may be sent in one round trip."""
        return all(isinstance(each, Command) and each.constant for each in commands)

    def check(self, count: int) -> None:
        """Raises UpdateDataError unless it `touches` as many rows as it has changed."""
        if self.touches not in (None, count):
            raise UpdateDataError(f"a row moved under its lock: {self.touches} were to change, {count} did")


@dataclass(frozen=True, slots=True)
class Reply:
    """A command's result: its rows by column name, or the number of rows that it changed."""

    rows: Sequence[Mapping[str, Any]]
    count: int

    @staticmethod
    def known(command: Command, before: Sequence["Reply"]) -> "Reply | None":
        """The reply to a command that `follows` no rows; None: it must be sent. `before`: the list's replies so far."""
        return Reply((), 0) if command.follows and not before[-1].rows else None


@dataclass(frozen=True, slots=True)
class Alone:
    """One auto-committed statement, with the driver's own placeholders: the fast path of a flow.

    A flow yields it first and alone, before its transaction begins. Its reply has no rows if it changed nothing, or if
    its effect is unknown: then the general path follows, and finds anything that was committed after all as a replay.
    If that transaction is retried, the flow is sent the same reply; the statement does not run again.
    """

    statement: str
    parameters: Mapping[str, object]
    names: tuple[str, ...]
    """Names of its result's columns."""


Steps = Generator[Sequence[Command | Alone], Sequence[Reply], T]
"""A transaction: yields lists of commands, is sent a list of replies for each, returns the result."""
Load = Steps[None]
