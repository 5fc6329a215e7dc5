"""The server: its version, and how its transactions behave."""

from collections.abc import Iterator
from pathlib import Path

from relay_billing.store.drivers import SUPPORTED
from worker.doctor.engines import Kind, keeps_log
from worker.doctor.finding import Finding, Status
from worker.doctor.reading import Reading
from worker.doctor.subject import Subject

OLDEST = {Kind.SQLITE: (3, 35), Kind.POSTGRESQL: (13,), Kind.MARIADB: (10, 6), Kind.MYSQL: (8, 0)}
"""The oldest versions that the worker runs on. SQLite's has RETURNING; MySQL's and MariaDB's have JSON_TABLE."""

_REFUSING = {
    Kind.POSTGRESQL: "SELECT pg_is_in_recovery()",
    Kind.MARIADB: "SELECT @@GLOBAL.read_only",
    Kind.MYSQL: "SELECT @@GLOBAL.read_only",
}


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
    refusing = _REFUSING.get(reading.kind)
    if refusing is not None and reading.value(refusing) in ("True", "1"):
        sentence = "the server refuses writes: it is a replica, or is about to become one"
        yield Finding(Status.RED, sentence, "Give the address of the server that takes writes")
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
    yield Finding(Status.GREEN, f"isolation {level}; the worker sets read committed for its own transactions")
    if reading.value("SELECT @@log_bin") == "1" and reading.value("SELECT @@GLOBAL.binlog_format") == "STATEMENT":
        sentence = "binlog_format is STATEMENT: InnoDB refuses every write of a read committed transaction (error 1665)"
        yield Finding(Status.RED, sentence, "SET GLOBAL binlog_format = 'ROW', and in the server's configuration")
    mode = reading.value("SELECT @@GLOBAL.sql_mode")
    if "STRICT_TRANS_TABLES" not in mode and "STRICT_ALL_TABLES" not in mode:
        sentence = (
            "sql_mode is not strict: a balance too large for its column is cut off without an error where another "
            "program writes it; the worker sets a strict one for itself"
        )
        yield Finding(Status.YELLOW, sentence, "Add STRICT_TRANS_TABLES to sql_mode")
    if reading.kind is Kind.MARIADB and reading.value("SELECT @@wsrep_on") == "1":
        sentence = (
            "a Galera cluster: a row's lock is not seen by other nodes, so a commit may be refused and tried again"
        )
        yield Finding(Status.YELLOW, sentence, "Send all writes, the relay's too, to one node")


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
