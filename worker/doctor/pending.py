"""What `migrate` would do."""

from collections.abc import Iterator

from sqlalchemy import Connection, inspect

from relay_billing import migrations
from relay_billing.migrations import VERSION_TABLE
from relay_billing.schema import ACCOUNT_TABLES, metadata
from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Subject


def _missing(connection: Connection) -> tuple[list[str], list[str]]:
    """Tables, and indexes of tables that are there, which this code has and the database has not."""
    found = inspect(connection)
    there = set(found.get_table_names())
    tables = [name for name in metadata.tables if name not in there]
    indexes = [
        str(index.name)
        for name, table in metadata.tables.items()
        if name in there and name not in ACCOUNT_TABLES
        for index in table.indexes
        if index.name not in {each["name"] for each in found.get_indexes(name)}
    ]
    return tables, indexes


def migration(subject: Subject) -> Iterator[Finding]:
    """Pending revisions, and the tables and indexes that they make."""
    reading = subject.reading
    has, needs = subject.revision(), migrations.head()
    ours = sorted(name for name in subject.tables.names if name.startswith("billing_") and name != VERSION_TABLE)
    known = migrations.revisions()
    if VERSION_TABLE not in subject.tables.names and ours:
        sentence = f"there are tables {', '.join(ours)}, but no {VERSION_TABLE}: `migrate` would stop at the first"
        yield Finding(
            Status.RED, sentence, "Rename them where they are another program's; drop them where they are empty"
        )
    elif has is not None and has not in known:
        sentence = f"at migration {has}, which this code (at {needs}) does not know: newer code was here"
        yield Finding(Status.RED, sentence, "Deploy that code, or go back with its own downgrade first")
    elif has == needs:
        yield Finding(Status.GREEN, f"at migration {has}: `migrate` has nothing to do")
    else:
        tables, indexes = reading.look(_missing)
        steps = known[known.index(has) + 1 :] if has else known
        within = sum(len(metadata.tables[name].indexes) for name in tables)
        made = [f"tables {', '.join(tables)} with {within} indexes"] if tables else []
        made += [f"indexes {', '.join(sorted(indexes))}"] if indexes else []
        sentence = f"at migration {has or 'none'}: `migrate` runs {', '.join(steps)} and makes {'; '.join(made)}"
        yield Finding(Status.YELLOW, sentence, "Run `migrate`, against a copy first")
