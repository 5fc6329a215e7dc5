"""Counts that give up in time instead of hanging."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Executable, case, func

from worker.doctor.finding import Finding, Status
from worker.doctor.reading import Reading, TookTooLong


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted, and what was not."""

    found: dict[str, int]
    """By the label of the statement's column, without those of which there are none."""
    late: tuple[Finding, ...]

    @property
    def listed(self) -> str:
        """As `users.quota (3), tokens.remain_quota (12)`."""
        return ", ".join(f"{label} ({count:,})" for label, count in self.found.items())


def how_many(condition: ColumnElement[bool], label: str) -> ColumnElement[int]:
    """A column that counts the rows of which this is true."""
    return func.sum(case((condition, 1), else_=0)).label(label)


def tally(reading: Reading, counts: Iterable[tuple[str, Executable]]) -> Tally:
    """Run statements that return one row of counts each, named by what they count. Raises SQLAlchemy's errors."""
    found: dict[str, int] = {}
    late: list[Finding] = []
    for what, statement in counts:
        try:
            (row,) = reading.rows(statement)
        except TookTooLong as error:
            hint = "Give it more time with --seconds, at an hour when few requests come"
            late.append(Finding(Status.YELLOW, f"{what}: not counted: {error}", hint))
        else:
            found |= {str(label): int(count) for label, count in row._mapping.items() if count}
    return Tally(found, tuple(late))
