"""Constant statements compiled once, for drivers that are sent them past SQLAlchemy, one statement at a time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import Dialect, Executable, Select
from sqlalchemy.sql.compiler import SQLCompiler

from relay_billing.store.commands import Command, Reply, Rows

CACHED = 128
"""Compiled statements kept of each dialect; there are a few dozen constant ones. As many as sqlite3 keeps prepared."""
Process = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """A constant statement, compiled for a driver."""

    text: str
    inside: Mapping[str, Any]
    """Values of the parameters that the statement itself fixes."""
    given: tuple[tuple[str, Process], ...]
    """Conversions of parameters by name: SQLite takes a list of ids as JSON, for example."""
    names: tuple[str, ...]
    """Columns of its rows; empty: it returns no rows."""
    read: tuple[tuple[str, Process], ...]
    """Conversions of columns by name: neither SQLite nor MySQL has booleans."""

    def parameters(self, given: Mapping[str, object]) -> dict[str, object]:
        """One set of parameters as the driver takes them."""
        values = {**self.inside, **given}
        for name, process in self.given:
            values[name] = process(values[name])
        return values

    def all_parameters(self, command: Command) -> list[dict[str, object]]:
        """The many sets of a command's parameters."""
        return [self.parameters(each) for each in cast("Rows", command.parameters)]

    def reply(self, rows: Iterable[Sequence[object]], count: int | None = None) -> Reply:
        """The reply to its rows. `count`: rows that it changed; unset: as many as there are rows."""
        found = [self._row(row) for row in rows]
        return Reply(found, len(found) if count is None else count)

    def _row(self, row: Sequence[object]) -> dict[str, object]:
        values = dict(zip(self.names, row, strict=True))
        for name, process in self.read:
            values[name] = process(values[name])
        return values


@lru_cache(maxsize=2 * CACHED)
def _sent(statement: Executable, names: tuple[str, ...], dialect: Dialect, *, many: bool) -> Sent:
    """Compile it. `names`: the parameters; for an INSERT, its columns. `many`: it is sent by `executemany`."""
    compiled = statement.compile(dialect=dialect, column_keys=list(names), for_executemany=many)  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)
    columns = dict(statement.selected_columns.items()) if isinstance(statement, Select) else {}
    given = [(name, each.type.dialect_impl(dialect)) for name, each in compiled.binds.items()]
    read = [(name, each.type.dialect_impl(dialect)) for name, each in columns.items()]
    return Sent(
        str(compiled),
        {name: each.effective_value for name, each in compiled.binds.items() if not each.required},
        tuple((name, made) for name, each in given if (made := each.bind_processor(dialect)) is not None),
        tuple(columns),
        tuple((n, made) for n, each in read if (made := each.result_processor(dialect, None)) is not None),
    )


def sent_of(command: Command, dialect: Dialect) -> Sent:
    """The compiled statement. Its parameters are one set, a dict, or a list of sets."""
    parameters = command.parameters
    if isinstance(parameters, dict):
        return _sent(command.statement, tuple(parameters), dialect, many=False)
    return _sent(command.statement, tuple(cast("Rows", parameters)[0]), dialect, many=True)
