"""What the doctor says of a server, its clock, its disk, its users, and of what `migrate` would make."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import make_url

from relay_billing import migrations
from relay_billing.store.drivers import SUPPORTED
from tests.fixtures.looked_at import LookedAt, seeming
from tests.fixtures.workers import ROOT
from worker.doctor import clocks, collation, connections, disk, examination, server
from worker.doctor.examination import Check, examine
from worker.doctor.finding import Finding, Status
from worker.doctor.reading import Reading
from worker.doctor.subject import Questions, Subject

RED, YELLOW, GREEN = Status.RED, Status.YELLOW, Status.GREEN
of = pytest.mark.parametrize
WORKER, RELAY = f"doctor_worker_{os.getpid()}", f"doctor_relay_{os.getpid()}"


def only(*databases: str) -> pytest.MarkDecorator:
    """For what only these databases have."""
    return of("looked_at", databases, indirect=True)


def test_an_old_version_is_red(looked_at: LookedAt) -> None:
    def old(reading: Reading) -> Reading:
        return replace(reading, version=(1, 2))

    first = looked_at.subject(lambda subject: next(iter(server.version(subject))), old)
    supported = make_url(looked_at.url).get_backend_name() in SUPPORTED
    assert first.status is RED
    assert ("1.2, the worker needs" in first.sentence) is supported


def test_the_version_there_is_known(looked_at: LookedAt) -> None:
    found = looked_at.found("server")[0]
    assert found.status is (GREEN if make_url(looked_at.url).get_backend_name() in SUPPORTED else RED)
    names = {"sqlite": "SQLite 3.", "postgresql": "PostgreSQL 1", "mariadb": "MariaDB 1"}
    assert found.sentence.startswith(names[looked_at.name])


@only("sqlite")
def test_a_database_without_a_log_is_yellow_and_one_with_it_is_left_without_files_beside_it(
    looked_at: LookedAt,
) -> None:
    folder = Path(str(make_url(looked_at.url).database)).parent
    assert looked_at.worst("server")[0] is YELLOW
    looked_at.run("PRAGMA journal_mode=WAL")
    before = {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}
    assert looked_at.worst("server")[0] is GREEN
    assert {each.name: each.stat().st_mtime_ns for each in folder.iterdir()} == before


@only("sqlite")
def test_what_is_still_in_the_log_of_an_open_database_is_seen(looked_at: LookedAt) -> None:
    looked_at.run("PRAGMA journal_mode=WAL")
    with looked_at.engine.connect() as writer:
        writer.exec_driver_sql("CREATE TABLE users (id INTEGER PRIMARY KEY)")
        writer.commit()
        assert "users has no column username" in looked_at.worst("tables")[1]


@only("postgresql")
def test_another_isolation_and_a_commit_that_does_not_wait_are_yellow(looked_at: LookedAt) -> None:
    name = make_url(looked_at.url).database
    looked_at.run(
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'",
        f"ALTER DATABASE {name} SET synchronous_commit = off",
    )
    assert looked_at.worst("transactions")[0] is YELLOW
    assert looked_at.worst("durability") == (
        YELLOW,
        "synchronous_commit is off: a crash of the server may forget what it has confirmed, money included",
    )


SEEMING = (
    ("postgresql", server.durability, RED, "fsync is off", {"fsync": "off"}),
    ("postgresql", collation.text, YELLOW, "encoding LATIN1", {"server_encoding": "LATIN1"}),
    ("postgresql", collation.text, RED, "the system's collation has changed", {"datcollversion": "True"}),
    ("postgresql", server.transactions, RED, "the server refuses writes", {"pg_is_in_recovery": "True"}),
    ("mariadb", server.transactions, YELLOW, "sql_mode is not strict", {"sql_mode": ""}),
    ("mariadb", server.transactions, YELLOW, "a Galera cluster", {"wsrep_on": "1"}),
    ("mariadb", server.transactions, RED, "the server refuses writes", {"read_only": "1"}),
    ("mariadb", server.transactions, RED, "binlog_format is", {"log_bin": "1", "binlog_format": "STATEMENT"}),
    ("mariadb", server.durability, YELLOW, "innodb_flush_log", {"innodb_flush_log_at_trx_commit": "2"}),
    ("postgresql", connections.room, YELLOW, "85 of 100", {"max_connections": "100", "pg_stat_activity": "85"}),
    ("postgresql", connections.room, RED, "91 of 100", {"max_connections": "100", "pg_stat_activity": "91"}),
    ("postgresql", connections.rest, YELLOW, "idle_session_timeout is 5", {"idle_session_timeout": "5"}),
    ("mariadb", connections.room, YELLOW, "85 of 100", {"max_connections": "100", "Threads_connected": "85"}),
    ("mariadb", connections.room, RED, "91 of 100", {"max_connections": "100", "Threads_connected": "91"}),
    ("mariadb", connections.rest, YELLOW, "wait_timeout is 5", {"wait_timeout": "5"}),
    ("mariadb", collation.text, YELLOW, "character set latin1", {"character_set_database": "latin1"}),
)


@of(("looked_at", "check", "status", "words", "answers"), SEEMING, indirect=["looked_at"])
def test_a_setting_of_the_server_that_harms_is_found(
    looked_at: LookedAt, check: Check, status: Status, words: str, answers: dict[str, str]
) -> None:
    found = looked_at.subject(lambda subject: list(check(subject)), seeming(**answers))
    assert (status, words) in [(each.status, each.sentence[: len(words)]) for each in found]
    usual = looked_at.subject(lambda subject: list(check(subject)))
    assert words not in "".join(each.sentence for each in usual)


@only("mariadb")
def test_ids_that_ignore_case_are_yellow_in_the_relays_tables_and_red_in_ours(looked_at: LookedAt) -> None:
    looked_at.with_new_api().run("ALTER DATABASE COLLATE utf8mb4_general_ci")
    status, sentence = looked_at.worst("text")
    assert (status, "without regard to case" in sentence) == (YELLOW, True)
    looked_at.run("ALTER DATABASE COLLATE utf8mb4_bin")
    assert looked_at.worst("text")[0] is GREEN
    looked_at.run("CREATE TABLE billing_sessions (request_id VARCHAR(64) PRIMARY KEY)")
    status, sentence = looked_at.worst("text")
    assert (status, "it takes req-A for req-a" in sentence) == (RED, True)


@only("postgresql", "mariadb")
@of(
    ("ahead_s", "status", "words"),
    [(0, GREEN, "agree"), (-5, YELLOW, "5 s ahead of"), (5, YELLOW, "5 s behind"), (600, RED, "600 s behind")],
)
def test_clocks_that_differ_are_found(looked_at: LookedAt, ahead_s: float, status: Status, words: str) -> None:
    """`ahead_s`: of this host's clock."""
    looked_at.asked = Questions(clock=lambda: time.time() + ahead_s)
    (only_one,) = looked_at.subject(lambda subject: list(clocks.clock(subject)))
    assert only_one.status is status
    assert words in only_one.sentence


@only("sqlite")
def test_sqlite_has_the_clock_of_the_host(looked_at: LookedAt) -> None:
    assert looked_at.worst("clock") == (GREEN, "SQLite has this host's clock")


def test_another_midnight_than_the_relays_is_yellow_and_on_our_tables_nothing(looked_at: LookedAt) -> None:
    looked_at.asked = Questions(timezone="Asia/Kathmandu")
    assert looked_at.worst("time zones")[0] is GREEN
    looked_at.with_new_api()
    status, sentence = looked_at.worst("time zones")
    assert (status, "UTC+05:45" in sentence) == (YELLOW, True)
    looked_at.asked = Questions()
    assert looked_at.worst("time zones")[0] is GREEN


@of(("gib", "status"), [(100, GREEN), (4, YELLOW), (0.1, RED)])
def test_little_free_disk_is_found(looked_at: LookedAt, gib: float, status: Status) -> None:
    (found,) = looked_at.subject(lambda subject: list(disk.free(subject, lambda _: (1, 1, int(gib * 2**30)))))
    assert found.status is status
    assert f"{gib:.1f} GiB free" in found.sentence


@only("postgresql", "mariadb")
def test_a_disk_on_another_host_is_not_asked_for(looked_at: LookedAt) -> None:
    def elsewhere(reading: Reading) -> Reading:
        return replace(reading, url=reading.url.set(host="db.example"))

    (found,) = looked_at.subject(lambda subject: list(disk.free(subject)), elsewhere)
    assert (found.status, found.sentence[:15]) == (GREEN, "can't be asked ")


def migrated(looked_at: LookedAt, revision: str = "head") -> None:
    with looked_at.engine.begin() as connection:
        migrations.upgrade(connection, revision)


def test_what_migrate_would_make_is_listed(looked_at: LookedAt) -> None:
    status, sentence = looked_at.with_new_api().worst("migrations")
    assert status is YELLOW
    made = sentence.partition(" makes tables ")[2].partition(" with ")[0].split(", ")
    before = set(looked_at.subject(lambda subject: subject.tables.names))
    assert {"billing_sessions", "billing_ledger"} <= set(made)
    assert "users" not in made
    assert before == {"users", "tokens", "subscription_plans", "user_subscriptions"}


def test_what_migrate_would_make_is_what_it_makes(looked_at: LookedAt) -> None:
    _, sentence = looked_at.with_new_api().worst("migrations")
    made = sentence.partition(" makes tables ")[2].partition(" with ")[0].split(", ")
    before = looked_at.subject(lambda subject: subject.tables.names)
    migrated(looked_at)
    after = looked_at.subject(lambda subject: subject.tables.names)
    assert sorted(after - before - {migrations.VERSION_TABLE}) == sorted(made)
    assert looked_at.worst("migrations") == (
        GREEN,
        f"at migration {migrations.head()}: `migrate` has nothing to do",
    )


def test_a_database_that_lacks_the_last_migrations_is_yellow_with_what_is_missing(looked_at: LookedAt) -> None:
    migrated(looked_at, "0005")
    status, sentence = looked_at.worst("migrations")
    assert status is YELLOW
    assert "`migrate` runs 0006, 0007" in sentence
    assert "billing_heartbeats, billing_strays" in sentence
    assert "indexes ix_billing_sessions_times" in sentence


def test_a_database_of_newer_code_is_red(looked_at: LookedAt) -> None:
    migrated(looked_at)
    looked_at.run(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
    status, sentence = looked_at.worst("migrations")
    assert (status, "9999, which this code" in sentence) == (RED, True)


def test_tables_with_our_names_that_no_migration_made_are_red(looked_at: LookedAt) -> None:
    looked_at.run("CREATE TABLE billing_sessions (mine INTEGER)")
    status, sentence = looked_at.worst("migrations")
    assert (status, "but no billing_alembic_version" in sentence) == (RED, True)


@contextmanager
def login(looked_at: LookedAt, *grants: str) -> Iterator[LookedAt]:
    """Another user of the same database, with these grants; `{}` in them stands for his name."""
    name, url = f"doctor_{os.getpid()}", make_url(looked_at.url)
    mysql = looked_at.name == "mariadb"
    who = f"'{name}'@'{url.host}'" if mysql else name
    looked_at.run(
        f"CREATE USER {who} IDENTIFIED BY 'secret-of-doctor'"
        if mysql
        else f"CREATE ROLE {name} LOGIN PASSWORD 'secret-of-doctor'",
        *(each.format(who) for each in grants),
    )
    try:
        theirs = url.set(username=name, password="secret-of-doctor").render_as_string(hide_password=False)
        yield LookedAt(looked_at.name, theirs)
    finally:
        looked_at.run(*([f"DROP USER {who}"] if mysql else [f"DROP OWNED BY {name}", f"DROP ROLE {name}"]))


@only("postgresql")
def test_the_role_of_workers_may_do_all_but_migrate(looked_at: LookedAt) -> None:
    migrated(looked_at)
    looked_at.run(
        (ROOT / "deploy" / "grants.sql").read_text().replace("billing_worker", WORKER).replace("billing_relay", RELAY)
    )
    try:
        with login(looked_at, f"GRANT {WORKER} TO {{}}") as worker:
            assert worker.worst("grants")[0] is GREEN
            worker.asked = Questions(redis_url="redis://127.0.0.1:1")
            assert worker.worst("grants")[1].endswith("may not select tokens")
            looked_at.run(f"GRANT SELECT (key) ON tokens TO {WORKER}")
            assert worker.worst("grants")[0] is GREEN
            looked_at.run(f"REVOKE DELETE ON billing_webhooks FROM {WORKER}", f"REVOKE UPDATE ON users FROM {WORKER}")
            assert worker.worst("grants")[1].endswith("may not delete billing_webhooks, update users")
            looked_at.run(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '0006'")
            assert "may not make tables" in worker.worst("grants")[1]
    finally:
        looked_at.run(
            *(f"DROP OWNED BY {role}" for role in (WORKER, RELAY)), *(f"DROP ROLE {role}" for role in (WORKER, RELAY))
        )


@only("mariadb")
def test_what_a_user_of_mariadb_may_not_do_is_named(looked_at: LookedAt) -> None:
    looked_at.with_new_api()
    looked_at.run("CREATE TABLE billing_heartbeats (name VARCHAR(32) PRIMARY KEY, at BIGINT NOT NULL)")
    columns = {"users": "quota, used_quota, request_count", "tokens": "remain_quota"}
    grants = [f"GRANT SELECT, UPDATE ({names}) ON {table} TO {{}}" for table, names in columns.items()]
    grants.append("GRANT SELECT ON subscription_plans TO {}")
    grants.append("GRANT SELECT, INSERT, UPDATE ON billing_heartbeats TO {}")
    with login(looked_at, *grants) as user:
        status, sentence = user.worst("grants")
        assert status is RED, sentence
        assert "update tokens" in sentence
        assert "delete billing_heartbeats" in sentence
        assert all(each not in sentence for each in ("users", "insert", "subscription_plans"))
        assert "may not make tables" in sentence
        # What it may not read at all, it does not even see.
        assert "no table user_subscriptions" in user.worst("tables")[1]


@only("sqlite")
def test_a_file_that_may_not_be_written_is_red(looked_at: LookedAt, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked_at.worst("grants")[0] is GREEN
    monkeypatch.setattr("worker.doctor.grants.access", lambda *_: False)
    assert looked_at.worst("grants")[0] is RED


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(
    looked_at: LookedAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(subject: Subject) -> Iterator[Finding]:
        subject.reading.value("SELECT nothing FROM nowhere")
        yield Finding(GREEN, "never")

    monkeypatch.setattr(examination, "OF_TABLES", (("first", failing), ("second", failing)))
    found = [each for each in examine(looked_at.url, Questions(), 5) if each[0] in ("first", "second")]
    assert [(name, each.status) for name, each in found] == [("first", YELLOW), ("second", YELLOW)]
    assert all("can't be looked at: " in each.sentence for _, each in found)
