"""Account tables and their columns: whether all are there, and whether they hold what they must."""

from collections.abc import Iterator

from sqlalchemy import func, select

from relay_billing.schema import ACCOUNT_TABLES, metadata
from worker.doctor.engines import Kind
from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Subject
from worker.doctor.tables import Column
from worker.doctor.tally import tally

MONEY = {
    "users": ("quota", "used_quota", "request_count"),
    "tokens": ("remain_quota", "used_quota"),
    "user_subscriptions": ("amount_total", "amount_used"),
}
"""Columns that deltas are added to, and the count of requests beside them."""


def there(subject: Subject) -> Iterator[Finding]:
    """Which account tables there are, with which columns, of which types."""
    tables = subject.tables
    if not tables.accounts:
        sentence = "there are no account tables: `migrate` makes empty ones, as new-api's"
        yield Finding(Status.YELLOW, sentence, "Make sure that this is the right database")
        return
    of = "a relay's own (new-api or one-api)" if tables.foreign else "as `migrate` makes them"
    yield Finding(Status.GREEN, f"account tables {', '.join(tables.accounts)}, {of}")
    for name in ACCOUNT_TABLES:
        if name not in tables.columns:
            hint = "Nothing, where nobody has a subscription; else look for the right database"
            yield Finding(Status.YELLOW, f"there is no table {name}: `migrate` makes an empty one", hint)
            continue
        missing = [each.name for each in metadata.tables[name].columns if each.name not in tables.columns[name]]
        if missing:
            sentence = f"{name} has no column {', '.join(missing)}: every request would fail"
            yield Finding(Status.RED, sentence, "Bring the relay to a version that has it")


def money_columns(subject: Subject) -> Iterator[tuple[str, str, Column]]:
    """Table, name and column of every amount that there is."""
    for table, names in MONEY.items():
        columns = subject.tables.columns.get(table, {})
        yield from ((table, name, columns[name]) for name in names if name in columns)


def types(subject: Subject) -> Iterator[Finding]:
    """Whether amounts are signed integers, and whether tables know transactions."""
    bad = False
    for table, name, column in money_columns(subject):
        if column.bits is None:
            sentence = f"{table}.{name} is {column.type}: quota is an integer"
        elif column.unsigned:
            sentence = f"{table}.{name} is {column.type}: a settle may take a balance below 0, which it refuses"
        else:
            continue
        bad = True
        yield Finding(Status.RED, sentence, f"Make it a signed BIGINT: ALTER TABLE {table} …")
    if subject.reading.mysql and subject.tables.accounts:
        listed = ", ".join(f"'{each}'" for each in subject.tables.accounts)
        engines = subject.reading.look(
            lambda connection: connection.exec_driver_sql(
                "SELECT table_name, engine FROM information_schema.tables WHERE table_schema = DATABASE() "
                f"AND engine <> 'InnoDB' AND table_name IN ({listed})"
            ).all()
        )
        for table, engine in engines:
            bad = True
            sentence = f"{table} is a table of {engine}, which has no transactions: half a movement could stay"
            yield Finding(Status.RED, sentence, f"ALTER TABLE {table} ENGINE = InnoDB")
    if subject.reading.kind is Kind.SQLITE:
        kept = list(_kept(subject))
        bad = bad or bool(kept)
        yield from kept
    if not bad and subject.tables.accounts:
        yield Finding(Status.GREEN, "amounts are signed integers, in tables with transactions")


def _kept(subject: Subject) -> Iterator[Finding]:
    """SQLite keeps any type in any column."""
    statements = []
    for table in MONEY:
        kept = [
            func.sum(
                func.coalesce(func.typeof(metadata.tables[table].c[name]), "integer").not_in(("integer", "null"))
            ).label(f"{table}.{name}")
            for of, name, _ in money_columns(subject)
            if of == table
        ]
        if kept:
            statements.append((f"types of {table}", select(*kept)))
    counted = tally(subject.reading, statements)
    if counted.found:
        yield Finding(
            Status.RED, f"amounts that are no integers: {counted.listed}", "UPDATE … SET x = CAST(x AS INTEGER)"
        )
    yield from counted.late
