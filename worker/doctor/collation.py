"""How text is compared and kept."""

from collections.abc import Iterator

from worker.doctor.engines import Kind
from worker.doctor.finding import Finding, Status
from worker.doctor.reading import Reading
from worker.doctor.subject import Subject


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
    if collation.endswith(("_bin", "_cs")) or not subject.tables.foreign:
        yield Finding(Status.GREEN, sentence)
    else:
        sentence += ", those in the relay's tables without regard to case"
        yield Finding(Status.YELLOW, sentence, "Where you join on request ids yourself, compare them with BINARY")
