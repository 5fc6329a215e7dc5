"""What the doctor says of account tables in new-api's shape: each condition provoked once, on every database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from relay_billing.schema import metadata as own
from tests.fixtures.looked_at import DATABASES, STATEMENT_S, LookedAt
from tests.fixtures.new_api import NEW_API
from worker.doctor.balances import negatives
from worker.doctor.examination import examine
from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Questions, Subject

RED, YELLOW, GREEN = Status.RED, Status.YELLOW, Status.GREEN
USER = {"id": 1, "username": "ada", "password": "x", "quota": 1_000}
TOKEN = {"id": 1, "user_id": 1, "key": "sk-1", "remain_quota": 500, "unlimited_quota": False}
SUBSCRIPTION = {
    "id": 1,
    "user_id": 1,
    "plan_id": 1,
    "status": "active",
    "amount_total": 100,
    "amount_used": 10,
    "start_time": 1,
    "end_time": 2,
}
PLAN = {"id": 1, "title": "Pro"}
HEALTHY = {"users": [USER], "tokens": [TOKEN], "subscription_plans": [PLAN], "user_subscriptions": [SUBSCRIPTION]}
NARROW = {
    "mariadb": "ALTER TABLE {0} MODIFY {1} INT DEFAULT 0",
    "postgresql": "ALTER TABLE {0} ALTER COLUMN {1} TYPE integer",
}

UNIQUE_NO_MORE = {
    "postgresql": "ALTER TABLE tokens DROP CONSTRAINT tokens_key_key",
    "mariadb": "ALTER TABLE tokens DROP INDEX `key`",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One condition, and what is said of it."""

    name: str
    """Under which name it is found."""
    status: Status
    words: str
    rows: Mapping[str, Sequence[Mapping[str, object]]]
    change: Mapping[str, Sequence[str]]
    """Statements before the rows, by database; `*`: on each. A database that is not named has no such condition."""


Rows = Sequence[Mapping[str, object]]


def case(name: str, status: Status, words: str, change: str | Mapping[str, str] = "", **rows: Rows) -> Case:
    """Rows replace those of a healthy database, table by table; `change`: one statement, or those by database."""
    by_name = {"*": change} if isinstance(change, str) else change
    return Case(name, status, words, {**HEALTHY, **rows}, {key: [each] for key, each in by_name.items()})


CASES = (
    case("NULLs", RED, "users.quota (1); a batch", users=[{**USER, "quota": None}]),
    case("NULLs", YELLOW, "tokens.unlimited_quota (1)", tokens=[{**TOKEN, "unlimited_quota": None}]),
    case("balances", YELLOW, "users.quota (1)", users=[{**USER, "quota": -5}]),
    case("balances", YELLOW, "tokens.remain_quota (1)", tokens=[{**TOKEN, "remain_quota": -5}]),
    case("balances", GREEN, "no balance", tokens=[{**TOKEN, "remain_quota": -5, "unlimited_quota": True}]),
    case("balances", YELLOW, "below 0 (1)", user_subscriptions=[{**SUBSCRIPTION, "amount_used": -1}]),
    case("balances", YELLOW, "above their total (1)", user_subscriptions=[{**SUBSCRIPTION, "amount_used": 101}]),
    case("balances", GREEN, "no balance", user_subscriptions=[{**SUBSCRIPTION, "amount_total": 0}]),
    case("orphans", YELLOW, "tokens without a user (1)", tokens=[{**TOKEN, "user_id": 9}]),
    case("orphans", GREEN, "has its user", tokens=[{**TOKEN, "user_id": 9, "deleted_at": "2026-01-01 00:00:00"}]),
    case("orphans", YELLOW, "subscriptions without a user (1)", user_subscriptions=[{**SUBSCRIPTION, "user_id": 9}]),
    case("orphans", YELLOW, "subscriptions without a plan (1)", user_subscriptions=[{**SUBSCRIPTION, "plan_id": 9}]),
    case(
        "duplicates",
        RED,
        "1 values of tokens.key are there twice",
        UNIQUE_NO_MORE,
        tokens=[TOKEN, {**TOKEN, "id": 2}],
    ),
    case(
        "duplicates",
        GREEN,
        "is there twice",
        UNIQUE_NO_MORE,
        tokens=[{**TOKEN, "key": ""}, {**TOKEN, "key": "", "id": 2}],
    ),
    case(
        "duplicates",
        RED,
        "users.id has no primary key",
        {
            "postgresql": "ALTER TABLE users DROP CONSTRAINT users_pkey",
            "mariadb": "ALTER TABLE users MODIFY id BIGINT, DROP PRIMARY KEY",
        },
        users=[USER, {**USER, "username": "bob"}],
    ),
    case(
        "duplicates",
        YELLOW,
        "1 values of users.username are there twice",
        {
            "postgresql": "ALTER TABLE users DROP CONSTRAINT users_username_key",
            "mariadb": "ALTER TABLE users DROP INDEX username",
        },
        users=[USER, {**USER, "id": 2}],
    ),
    case(
        "widths", YELLOW, "32-bit: more than 2,147,483,647", {k: v.format("users", "quota") for k, v in NARROW.items()}
    ),
    case(
        "widths",
        RED,
        "the largest there is 2,000,000,000",
        {k: v.format("tokens", "used_quota") for k, v in NARROW.items()},
        tokens=[{**TOKEN, "used_quota": 2_000_000_000}],
    ),
    case(
        "widths",
        YELLOW,
        "user_subscriptions.end_time: not 64-bit",
        {k: v.format("user_subscriptions", "end_time") for k, v in NARROW.items()},
    ),
    case(
        "types",
        RED,
        "users.quota is NUMERIC",
        {"postgresql": "ALTER TABLE users ALTER COLUMN quota TYPE numeric(20,2)"},
    ),
    case(
        "types",
        RED,
        "users.quota is BIGINT(20) UNSIGNED: a settle",
        {"mariadb": "ALTER TABLE users MODIFY quota BIGINT UNSIGNED DEFAULT 0"},
    ),
    case("types", RED, "users is a table of MyISAM", {"mariadb": "ALTER TABLE users ENGINE = MyISAM"}),
    case("types", RED, "no integers: users.quota (1)", {"sqlite": ""}, users=[{**USER, "quota": 10.5}]),
    case("tables", RED, "tokens has no column used_quota", "ALTER TABLE tokens DROP COLUMN used_quota"),
    case("tables", YELLOW, "no table subscription_plans", "DROP TABLE subscription_plans", subscription_plans=()),
)


def fill(looked_at: LookedAt, rows: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
    with looked_at.engine.begin() as connection:
        for name, values in rows.items():
            for row in values:
                columns = ", ".join(connection.dialect.identifier_preparer.quote(each) for each in row)
                marks = ", ".join("?" if looked_at.name == "sqlite" else "%s" for _ in row)
                connection.exec_driver_sql(f"INSERT INTO {name} ({columns}) VALUES ({marks})", tuple(row.values()))


@pytest.mark.parametrize(
    ("looked_at", "case"),
    [(database, each) for each in CASES for database in DATABASES if {database, "*"} & set(each.change)],
    ids=lambda each: each if isinstance(each, str) else f"{each.name} {each.status}: {each.words[:40]}",
    indirect=["looked_at"],
)
def test_each_condition_is_found(looked_at: LookedAt, case: Case) -> None:
    statements = case.change.get(looked_at.name, case.change.get("*", ()))
    looked_at.with_new_api().run(*(each for each in statements if each))
    fill(looked_at, case.rows)
    status, sentences = looked_at.worst(case.name)
    assert status is case.status, sentences
    assert case.words in sentences


def test_null_is_yellow_where_the_worker_takes_it_for_zero(looked_at: LookedAt) -> None:
    looked_at.with_new_api()
    fill(looked_at, {"users": [{**USER, "quota": None}]})
    looked_at.asked = Questions(null_counts_as_zero=True)
    assert looked_at.worst("NULLs") == (YELLOW, "NULL: users.quota (1); amounts among them count as 0")


def test_an_empty_database_is_doubted_and_our_own_tables_are_known(looked_at: LookedAt) -> None:
    status, sentence = looked_at.worst("tables")
    assert status is YELLOW
    assert "there are no account tables" in sentence
    own.create_all(looked_at.engine)
    assert looked_at.worst("tables")[0] is GREEN
    assert looked_at.worst("writers")[0] is GREEN
    fill(looked_at, {"users": [{"id": 1}], "tokens": [{"id": of, "user_id": 1, "key": "sk-1"} for of in (1, 2)]})
    fill(looked_at, {"tokens": [{"id": of, "user_id": 1, "key": ""} for of in (3, 4)]})
    assert "1 values of tokens.key are there twice" in looked_at.worst("duplicates")[1]


LOCK = {
    "sqlite": "BEGIN EXCLUSIVE",
    "postgresql": "LOCK TABLE users IN ACCESS EXCLUSIVE MODE",
    "mariadb": "LOCK TABLES users WRITE",
}


def test_what_takes_too_long_is_not_counted_and_says_so(looked_at: LookedAt) -> None:
    looked_at.with_new_api()

    def locked(subject: Subject) -> list[Finding]:
        with looked_at.engine.connect() as holder:
            holder.exec_driver_sql(LOCK[looked_at.name])
            return list(negatives(subject))

    found = looked_at.subject(locked, statement_s=0.4)
    late = "balances of users: not counted: took over 0.4 s"
    assert (YELLOW, late) in [(each.status, each.sentence) for each in found]
    assert GREEN not in [each.status for each in found]


@pytest.mark.parametrize("looked_at", ["postgresql"], indirect=True)
def test_tables_that_cant_be_read_are_red_and_end_it(looked_at: LookedAt) -> None:
    looked_at.with_new_api()
    with looked_at.engine.connect() as holder:
        holder.exec_driver_sql(LOCK[looked_at.name])
        *_, (name, last) = examine(looked_at.url, Questions(), 0.4)
    assert (name, last.status) == ("tables", RED)


HEALTHY_SENTENCES = {
    "tables": (GREEN, "a relay's own"),
    "types": (GREEN, "signed integers"),
    "widths": (GREEN, "64-bit"),
    "NULLs": (GREEN, "no NULL"),
    "balances": (GREEN, "no balance is below 0"),
    "duplicates": (GREEN, "is there twice"),
    "orphans": (GREEN, "has its user and plan"),
    "writers": (YELLOW, "tokens.remain_quota"),
    "caches": (YELLOW, "no Redis was given"),
    "clock": (GREEN, "clock"),
    "grants": (GREEN, "may"),
    "migrations": (YELLOW, "`migrate` runs 0001, "),
}


def test_a_healthy_database_of_new_api_is_green_but_for_what_is_to_know(looked_at: LookedAt) -> None:
    looked_at.with_new_api()
    fill(looked_at, HEALTHY)
    found = dict(examine(looked_at.url, Questions(), STATEMENT_S))
    assert {name: found[name].status for name in HEALTHY_SENTENCES} == {
        name: status for name, (status, _) in HEALTHY_SENTENCES.items()
    }
    for name, (_, words) in HEALTHY_SENTENCES.items():
        assert words in found[name].sentence


def test_new_api_has_the_columns_that_the_worker_reads() -> None:
    for name, table in NEW_API.tables.items():
        assert {each.name for each in own.tables[name].c} <= {each.name for each in table.c}
