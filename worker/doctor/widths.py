"""Columns too narrow for what they may come to hold."""

from collections.abc import Iterator

from sqlalchemy import func, select

from relay_billing.schema import metadata
from worker.doctor.columns import MONEY, money_columns
from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Subject
from worker.doctor.tables import Column
from worker.doctor.tally import tally

TIMES = {"user_subscriptions": ("start_time", "end_time", "last_reset_time", "next_reset_time")}
"""Unix seconds."""
WIDE = 64
END_OF_32_BITS = "2038-01-19"


def widths(subject: Subject) -> Iterator[Finding]:
    """Columns too narrow for what they may come to hold."""
    narrow = {
        f"{table}.{name}": column for table, name, column in money_columns(subject) if (column.bits or WIDE) < WIDE
    }
    statements = []
    for table in MONEY:
        labels = [label for label in narrow if label.startswith(f"{table}.")]
        columns = [metadata.tables[table].c[label.partition(".")[2]] for label in labels]
        largest = [func.max(func.abs(each)).label(label) for label, each in zip(labels, columns, strict=True)]
        if largest:
            statements.append((f"the largest amounts of {table}", select(*largest)))
    counted = tally(subject.reading, statements)
    for label, column in narrow.items():
        yield _narrow(subject, label, column, counted.found.get(label, 0))
    yield from counted.late
    dates = [
        f"{table}.{name}"
        for table, names in TIMES.items()
        for name in names
        if (subject.tables.columns.get(table, {}).get(name) or Column("", True, WIDE)).bits != WIDE
    ]
    if dates:
        sentence = f"{', '.join(dates)}: not 64-bit: times after {END_OF_32_BITS} do not fit"
        yield Finding(Status.YELLOW, sentence, "Make them BIGINT before somebody buys that long")
    if not narrow and not dates and subject.tables.accounts:
        yield Finding(Status.GREEN, "all amounts and times are 64-bit")


def _narrow(subject: Subject, label: str, column: Column, largest: int) -> Finding:
    most = 2 ** ((column.bits or WIDE) - 1) - 1
    table, _, name = label.partition(".")
    change = f"MODIFY {name} BIGINT DEFAULT 0" if subject.reading.mysql else f"ALTER COLUMN {name} TYPE bigint"
    near = largest > most // 2
    sentence = (
        f"{label} is {column.type}, {column.bits}-bit: more than {most:,} overflows; the largest there is {largest:,}"
    )
    return Finding(Status.RED if near else Status.YELLOW, sentence, f"ALTER TABLE {table} {change}")
