"""`doctor` as an operator types it: lines, JSON, exit codes, and no password."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from relay_billing import migrations
from tests.fixtures.looked_at import LookedAt
from worker.cli import app
from worker.doctor import connections


def typed(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BILLING_DATABASE_URL", raising=False)
    return tmp_path


def test_each_line_has_a_status_a_name_and_a_sentence_and_the_last_one_counts_them(looked_at: LookedAt) -> None:
    looked_at.with_new_api().run("INSERT INTO users (id, password, quota) VALUES (1, 'x', NULL)")
    done = typed("--database", looked_at.url)
    first, *lines, last = done.stdout.splitlines()
    assert first.startswith("doctor of ")
    statuses = [line.split()[0] for line in lines]
    assert set(statuses) == {"red", "yellow", "green"}
    assert any(line.split()[:3] == ["red", "NULLs", "NULL:"] for line in lines)
    assert last == ", ".join(f"{statuses.count(each)} {each}" for each in ("red", "yellow", "green"))
    assert done.exit_code == 1
    listed = json.loads(typed("--database", looked_at.url, "--json").stdout)
    assert [(each["status"], each["name"]) for each in listed] == [
        (line.split()[0], line[7:19].strip()) for line in lines
    ]
    assert all(set(each) == {"status", "name", "sentence", "hint"} for each in listed)


def test_a_migrated_database_is_all_green_and_exits_0(looked_at: LookedAt, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests use the same server, with many connections.
    monkeypatch.setattr(connections, "FULL_SHARE", 1.0)
    monkeypatch.setattr(connections, "FEWEST_LEFT", 0)
    with looked_at.engine.begin() as connection:
        migrations.upgrade(connection)
    if looked_at.name == "sqlite":
        # As the first of our processes does.
        looked_at.run("PRAGMA journal_mode=WAL")
    done = typed("--database", looked_at.url)
    assert done.exit_code == 0, done.stdout
    assert "0 red, 0 yellow, " in done.stdout


def test_it_changes_nothing(looked_at: LookedAt) -> None:
    looked_at.with_new_api().run("INSERT INTO users (id, password, quota) VALUES (1, 'x', -1)")
    before = looked_at.content()
    typed("--database", looked_at.url)
    assert looked_at.content() == before


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://ada:planted-password@127.0.0.1:1/x", "can't be reached: "),
        ("mysql://ada:planted-password@127.0.0.1:1/x", "can't be reached: "),
        ("sqlite:///nowhere/billing.db", "can't be reached: unable to open"),
        ("sqlite://", "BILLING_DATABASE_URL: names no file"),
        ("mysql://ada@127.0.0.1", "BILLING_DATABASE_URL: names no database"),
        ("oracle://ada@127.0.0.1/x", "BILLING_DATABASE_URL: oracle is none of "),
        ("nothing", "BILLING_DATABASE_URL: is not a database URL"),
    ],
)
def test_a_database_that_cant_be_reached_exits_2_in_one_line(url: str, problem: str, elsewhere: Path) -> None:
    done = typed("--database", url)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("relay-billing: ")
    assert problem in line
    assert "planted-password" not in done.output
    assert [each.name for each in elsewhere.iterdir()] == []


@pytest.mark.parametrize("looked_at", ["sqlite"], indirect=True)
def test_passwords_are_masked_in_what_is_found(looked_at: LookedAt, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at.with_new_api()
    monkeypatch.setenv("BILLING_DATABASE_URL", looked_at.url)
    monkeypatch.setenv("BILLING_NEW_API_CRYPTO_SECRET", "planted-secret")
    monkeypatch.setenv("BILLING_NEW_API_REDIS_URL", "redis://:planted-password@127.0.0.1:1/0")
    done = typed()
    assert done.exit_code == 1
    assert "caches" in done.stdout
    assert "planted" not in done.stdout
