"""All checks, in the order in which they are read."""

from collections.abc import Callable, Iterable, Iterator

from sqlalchemy.exc import SQLAlchemyError

from relay_billing.store.failures import cause_of
from worker.doctor import (
    balances,
    caches,
    clocks,
    collation,
    columns,
    connections,
    disk,
    grants,
    keys,
    pending,
    server,
    widths,
    writers,
)
from worker.doctor.finding import Finding, Status
from worker.doctor.reading import TookTooLong, opened
from worker.doctor.subject import Questions, Subject
from worker.doctor.tables import Tables, tables_of

Check = Callable[[Subject], Iterable[Finding]]

NO_TABLES = Tables(frozenset(), {}, {})
OF_THE_SERVER: tuple[tuple[str, Check], ...] = (
    ("server", server.version),
    ("transactions", server.transactions),
    ("durability", server.durability),
    ("connections", connections.room),
    ("connections", connections.rest),
    ("clock", clocks.clock),
    ("disk", disk.free),
)
OF_TABLES: tuple[tuple[str, Check], ...] = (
    ("text", collation.text),
    ("tables", columns.there),
    ("types", columns.types),
    ("widths", widths.widths),
    ("NULLs", balances.nulls),
    ("balances", balances.negatives),
    ("duplicates", keys.duplicates),
    ("orphans", keys.orphans),
    ("writers", writers.absolute),
    ("caches", caches.caches),
    ("time zones", clocks.zones),
    ("grants", grants.worker),
    ("grants", grants.creation),
    ("migrations", pending.migration),
)


def _carried_out(name: str, check: Check, subject: Subject) -> Iterator[tuple[str, Finding]]:
    """The findings of one check; that it failed is one too."""
    try:
        for finding in check(subject):
            yield name, finding
    except TookTooLong as error:
        yield name, Finding(Status.YELLOW, f"not looked at: {error}", "Give it more time with --seconds")
    except SQLAlchemyError as error:
        yield (
            name,
            Finding(Status.YELLOW, f"can't be looked at: {cause_of(error)}", "Let this user read it, or ask another"),
        )


def examine(database_url: str, asked: Questions, statement_s: float) -> Iterator[tuple[str, Finding]]:
    """Look at everything, and say of each thing its name and what was found. Changes nothing.

    `statement_s`: seconds that each statement may take. Raises Refusal where the database can't be reached.
    """
    with opened(database_url, statement_s) as reading:
        for name, check in OF_THE_SERVER:
            yield from _carried_out(name, check, Subject(reading, NO_TABLES, asked))
        try:
            tables = reading.look(tables_of)
        except (TookTooLong, SQLAlchemyError) as error:
            why = cause_of(error) if isinstance(error, SQLAlchemyError) else str(error)
            hint = "Somebody holds a lock on one of them, or this user may not look at them"
            yield "tables", Finding(Status.RED, f"can't be read, so nothing else is looked at: {why}", hint)
            return
        for name, check in OF_TABLES:
            yield from _carried_out(name, check, Subject(reading, tables, asked))
