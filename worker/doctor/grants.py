"""Whether the connected user may do what the worker does. The database judges the statements themselves, unexecuted."""

from collections.abc import Iterator
from os import W_OK, access
from pathlib import Path

from sqlalchemy import Connection, Executable, Table, delete, insert, literal, select, text, update
from sqlalchemy.exc import DBAPIError

from relay_billing import migrations
from relay_billing.schema import ACCOUNT_TABLES, metadata
from worker.doctor.engines import Kind
from worker.doctor.finding import Finding, Status
from worker.doctor.reading import Reading
from worker.doctor.subject import Subject

UNREAD = {"tokens": ("key",)}
"""Columns of account tables that workers read only where a relay's caches follow (deploy/grants.sql)."""
WRITTEN = {
    "users": ("quota", "used_quota", "request_count"),
    "tokens": ("remain_quota", "used_quota"),
    "user_subscriptions": ("amount_used", "last_reset_time", "next_reset_time", "status"),
    "billing_ledger": ("amount", "balance_after"),
}
"""What the worker updates in account tables, and all that it updates in the ledger."""
GRANTS = {False: "deploy/grants.sql", True: "deploy/grants-mysql.sql"}
"""What the roles need, by whether it is MySQL or MariaDB."""
DENIED = ("42501", 1142, 1143, 1044)
"""PostgreSQL's SQLSTATE, and MySQL's error numbers, for what a user may not do."""


def _statements(table: Table, unread: tuple[str, ...]) -> dict[str, Executable]:
    own = table.name not in ACCOUNT_TABLES
    read = [each for each in table.c if each.name not in unread]
    first = next(iter(table.primary_key))
    nowhere = first.is_(None)
    asked: dict[str, Executable] = {"select": select(*read).where(nowhere)}
    written = WRITTEN.get(table.name, tuple(each.name for each in table.c if not each.primary_key) if own else ())
    if written:
        asked["update"] = update(table).where(nowhere).values({name: table.c[name] for name in written})
    if own:
        values = [each for each in table.c if each.name != "id"]
        nothing = select(*(literal(None).label(each.name) for each in values)).where(text("1 = 0"))
        asked["insert"] = insert(table).from_select(values, nothing, include_defaults=False)
        asked["delete"] = delete(table).where(nowhere)
    return asked


def _denied(reading: Reading, connection: Connection, statement: Executable) -> bool:
    """Whether this user may not run it. EXPLAIN checks that and runs nothing, whatever the transaction may do."""
    words = str(statement.compile(connection, compile_kwargs={"literal_binds": True}))  # type: ignore[attr-defined]
    try:
        connection.exec_driver_sql(f"EXPLAIN {words}")
    except DBAPIError as error:
        codes = {getattr(error.orig, "sqlstate", None), *getattr(error.orig, "args", ())[:1]}
        if codes.isdisjoint(DENIED):
            raise
        return True
    finally:
        connection.rollback()
    return False


def _refused(subject: Subject, connection: Connection) -> Iterator[str]:
    caches = bool(subject.asked.redis_url)
    if subject.reading.mysql:
        # Alone here: MySQL and MariaDB refuse even to explain a write in a read-only transaction.
        connection.exec_driver_sql("SET SESSION TRANSACTION READ WRITE")
        connection.rollback()
    try:
        for name, columns in subject.tables.columns.items():
            table = metadata.tables.get(name)
            if table is None or not {each.name for each in table.c} <= set(columns):
                # Another program's, or one that lacks a column, which is a finding of its own.
                continue
            for verb, statement in _statements(table, () if caches else UNREAD.get(name, ())).items():
                if _denied(subject.reading, connection, statement):
                    yield f"{verb} {name}"
    finally:
        if subject.reading.mysql and not connection.invalidated:
            connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")


def worker(subject: Subject) -> Iterator[Finding]:
    """Whether the worker's statements are allowed."""
    if subject.reading.kind is Kind.SQLITE:
        yield from _file(Path(str(subject.reading.url.database)))
        return
    user = subject.reading.value("SELECT current_user" + ("()" if subject.reading.mysql else ""))
    refused = subject.reading.look(lambda connection: list(_refused(subject, connection)))
    if refused:
        hint = f"{GRANTS[subject.reading.mysql]} has what the roles need"
        yield Finding(Status.RED, f"{user} may not {', '.join(refused)}", hint)
    else:
        yield Finding(Status.GREEN, f"{user} may read and change what the worker does")


def _file(file: Path) -> Iterator[Finding]:
    if access(file, W_OK) and access(file.parent, W_OK):
        yield Finding(Status.GREEN, f"this process may write {file} and beside it")
    else:
        sentence = f"this process may not write {file}, or not make files beside it: SQLite needs both"
        yield Finding(Status.RED, sentence, "Run the doctor as the user of the workers; change the owner of the folder")


_MAY_CREATE = {
    Kind.POSTGRESQL: "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)",
    Kind.MARIADB: (
        "SELECT EXISTS (SELECT 1 FROM information_schema.user_privileges WHERE privilege_type = 'CREATE' "
        "AND grantee = {user}) OR EXISTS (SELECT 1 FROM information_schema.schema_privileges "
        "WHERE privilege_type = 'CREATE' AND DATABASE() LIKE table_schema AND grantee = {user})"
    ),
}
_MAY_CREATE[Kind.MYSQL] = _MAY_CREATE[Kind.MARIADB]
_GRANTEE = "CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')"


def creation(subject: Subject) -> Iterator[Finding]:
    """Whether the user may make tables, as `migrate` does; of no account where nothing is to be made."""
    asked = _MAY_CREATE.get(subject.reading.kind)
    if asked is None or subject.revision() == migrations.head():
        return
    if subject.reading.value(asked.format(user=_GRANTEE)) in ("True", "1"):
        yield Finding(Status.GREEN, "and may make the tables that `migrate` makes")
    else:
        roles = "; what it has through a role is not looked at" if subject.reading.mysql else ""
        hint = "Run `migrate` as the owner of the tables, with BILLING_DATABASE_URL set for that command alone"
        yield Finding(Status.YELLOW, f"this user may not make tables, so not run `migrate`{roles}", hint)
