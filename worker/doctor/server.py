"""The server: its version, how its transactions behave, and how it compares text."""

from collections.abc import Iterator
from pathlib import Path

from relay_billing.store.drivers import SUPPORTED
from worker.doctor.engines import keeps_log
from worker.doctor.finding import Finding, Status
from worker.doctor.reading import Kind, Reading
from worker.doctor.subject import Subject

OLDEST = {Kind.SQLITE: (3, 35), Kind.POSTGRESQL: (13,), Kind.MARIADB: (10, 6), Kind.MYSQL: (8, 0)}
"""The oldest versions that the worker runs on. SQLite's has RETURNING; MySQL's and MariaDB's have JSON_TABLE."""


def version(subject: Subject) -> Iterator[Finding]:
    """Whether the worker runs on this database and version."""
    reading = subject.reading
    has, needs = (".".join(map(str, each)) for each in (reading.version, OLDEST[reading.kind]))
    if reading.engine.dialect.name not in SUPPORTED:
        sentence = f"{reading.kind} {has}: this release of the worker does not run on it"
        yield Finding(Status.RED, sentence, f"It runs on {', '.join(SUPPORTED)}")
    elif reading.version < OLDEST[reading.kind]:
        yield Finding(
            Status.RED, f"{reading.kind} {has}, the worker needs {needs} or later", "Upgrade the server first"
        )
    else:
        yield Finding(Status.GREEN, f"{reading.kind} {has}")
    if reading.kind is Kind.SQLITE:
        if keeps_log(Path(str(reading.url.database))):
            yield Finding(Status.GREEN, "it has a write-ahead log: who reads never waits for who writes")
        else:
            sentence = "it has no write-ahead log: the first of our processes sets it (WAL), for the relay too"
            yield Finding(Status.YELLOW, sentence, "Nothing, if the relay runs on this host; WAL needs a local disk")


def transactions(subject: Subject) -> Iterator[Finding]:
    """The isolation level, and what would change a written balance behind our back."""
    reading = subject.reading
    if reading.kind is Kind.SQLITE:
        yield Finding(Status.GREEN, "SQLite has one writer at a time")
    elif reading.kind is Kind.POSTGRESQL:
        level = reading.value("SHOW default_transaction_isolation")
        if level == "read committed":
            yield Finding(Status.GREEN, f"isolation {level}")
        else:
            sentence = f"isolation {level}: transactions that meet on one account are aborted and tried again"
            yield Finding(Status.YELLOW, sentence, "ALTER ROLE … SET default_transaction_isolation = 'read committed'")
    else:
        yield from _mysql_transactions(reading)


def _mysql_transactions(reading: Reading) -> Iterator[Finding]:
    name = "tx_isolation" if reading.kind is Kind.MARIADB and reading.version < (11, 1) else "transaction_isolation"
    level = reading.value(f"SELECT @@GLOBAL.{name}").replace("-", " ").lower()
    yield Finding(Status.GREEN, f"isolation {level}; the worker's own transactions must be read committed")
    if reading.value("SELECT @@log_bin") == "1" and reading.value("SELECT @@GLOBAL.binlog_format") == "STATEMENT":
        sentence = "binlog_format is STATEMENT: InnoDB refuses every write of a read committed transaction (error 1665)"
        yield Finding(Status.RED, sentence, "SET GLOBAL binlog_format = 'ROW', and in the server's configuration")
    mode = reading.value("SELECT @@GLOBAL.sql_mode")
    if "STRICT_TRANS_TABLES" not in mode and "STRICT_ALL_TABLES" not in mode:
        sentence = "sql_mode is not strict: a balance too large for its column is cut off without an error"
        yield Finding(Status.RED, sentence, "Add STRICT_TRANS_TABLES to sql_mode")


def durability(subject: Subject) -> Iterator[Finding]:
    """Whether what was committed survives a crash of the server."""
    reading = subject.reading
    if reading.kind is Kind.SQLITE:
        return
    if reading.kind is Kind.POSTGRESQL:
        lost = {"fsync": "off", "synchronous_commit": "off"}
        found = {name: reading.value(f"SHOW {name}") for name in lost}
    else:
        lost = {"innodb_flush_log_at_trx_commit": "0 or 2"}
        found = {name: reading.value(f"SELECT @@GLOBAL.{name}") for name in lost}
    bad = [f"{name} is {value}" for name, value in found.items() if value in lost[name].split(" or ")]
    if bad:
        sentence = f"{' and '.join(bad)}: a crash of the server may forget what it has confirmed, money included"
        yield Finding(
            Status.RED if "fsync" in bad[0] else Status.YELLOW, sentence, "Set it back, at least for our role"
        )
    else:
        yield Finding(Status.GREEN, "what is committed is on the disk")


def text(subject: Subject) -> Iterator[Finding]:
    """Whether ids that differ are taken for the same, and whether any text can be kept."""
    reading = subject.reading
    if reading.kind is Kind.SQLITE:
        yield Finding(Status.GREEN, "text is compared byte by byte")
    elif reading.kind is Kind.POSTGRESQL:
        yield from _postgresql_text(reading)
    else:
        yield from _mysql_text(subject)


def _postgresql_text(reading: Reading) -> Iterator[Finding]:
    encoding, collation = (
        reading.value("SHOW server_encoding"),
        reading.value("SELECT datcollate FROM pg_database WHERE datname = current_database()"),
    )
    if encoding != "UTF8":
        sentence = f"encoding {encoding}: a request with a model or reason in other characters is refused"
        yield Finding(Status.YELLOW, sentence, "Move to a database with encoding UTF8, before or after")
    else:
        yield Finding(Status.GREEN, f"encoding {encoding}, collation {collation}; ids are compared byte by byte")
    if reading.version < (15,):
        return
    versions = (
        "SELECT datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid) "
        "FROM pg_database WHERE datname = current_database()"
    )
    if reading.value(versions) == "True":
        sentence = "the system's collation has changed since this database was made: indexes of text may miss rows"
        yield Finding(Status.RED, sentence, "REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION")


def _mysql_text(subject: Subject) -> Iterator[Finding]:
    reading = subject.reading
    charset, collation = reading.value("SELECT @@character_set_database"), reading.value("SELECT @@collation_database")
    if charset != "utf8mb4":
        sentence = f"character set {charset}: a request with a model or reason in other characters is refused"
        yield Finding(Status.YELLOW, sentence, "ALTER DATABASE … CHARACTER SET utf8mb4, before `migrate`")
    given = subject.tables.columns.get("billing_sessions", {}).get("request_id")
    if given is not None and "BINARY" not in given.type.upper():
        sentence = f"billing_sessions.request_id is {given.type}, collation {collation}: it takes req-A for req-a"
        yield Finding(Status.RED, sentence, "Let `migrate` make our tables: it makes ids VARBINARY")
        return
    sentence = f"character set {charset}, collation {collation}; ids in our own tables are compared byte by byte"
    if collation.endswith(("_bin", "_cs")):
        yield Finding(Status.GREEN, sentence)
    else:
        sentence += ", those in the relay's tables without regard to case"
        yield Finding(Status.YELLOW, sentence, "Where you join on request ids yourself, compare them with BINARY")
