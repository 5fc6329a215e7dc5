"""What operators type, in-process: answers, exit codes, and one clear line for what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, update
from typer.testing import CliRunner, Result

from relay_billing import Ledger, Policy, SettleJob
from relay_billing.schema import users
from tests.fixtures.accounts import given, states, wallet
from tests.fixtures.typed import named_by_settings
from worker.cli import app

WEALTH = 1_000_000
HUGE = 600_000_000


@pytest.fixture
def migrated(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A migrated database with two parked sessions, which the settings name."""
    with named_by_settings(empty_url, tmp_path, monkeypatch, 120) as engine:
        given(engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
        ledger = Ledger(engine, Policy(trust_quota=0))
        for request_id in ("r1", "r2"):
            ledger.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100)
            ledger.apply([SettleJob(request_id, HUGE)])
        yield engine


def typed(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, words, env=env)


def ids(*more: str) -> list[int]:
    return [each["id"] for each in json.loads(typed("dead-letters", "list", "--json", *more).stdout)]


def test_dead_letters_are_listed_shown_replayed_and_written_off(migrated: Engine) -> None:
    listed = typed("dead-letters", "list")
    assert listed.exit_code == 0
    assert all(word in listed.stdout for word in ("implausible_amount", "r1", "r2", "2 dead letters", "$2400"))
    first, second = ids()
    assert json.loads(typed("dead-letters", "show", str(first), "--json").stdout)["quota"] == HUGE
    assert typed("dead-letters", "replay", str(first)).exit_code == 1
    assert typed("dead-letters", "replay", str(first), env={"BILLING_MAX_SETTLE_QUOTA": "0"}).exit_code == 0
    assert typed("dead-letters", "replay", str(first)).exit_code == 0
    written = typed("dead-letters", "write-off", str(second), "--reason", "goodwill", "--yes")
    assert (written.exit_code, "100 went back" in written.stdout) == (0, True)
    assert ids() == []
    assert ids("--all") == [first, second]
    assert (states(migrated), wallet(migrated)) == ({"r1": "settled", "r2": "refunded"}, WEALTH - HUGE)
    assert typed("dead-letters", "purge", "--older-than", "0s").exit_code == 0
    assert ids("--all") == []


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (("--reason", "conflict"), 0),
        (("--user", "1"), 2),
        (("--user", "2"), 0),
        (("--at-least", str(HUGE)), 2),
        (("--at-least", str(HUGE + 1)), 0),
        (("--older-than", "1h"), 0),
        (("--older-than", "0s"), 2),
        (("--limit", "1"), 1),
    ],
)
def test_dead_letters_are_filtered(migrated: Engine, more: tuple[str, ...], found: int) -> None:
    assert len(ids(*more)) == found


def test_a_write_off_asks_first(migrated: Engine) -> None:
    (first, _) = ids()
    refused = CliRunner().invoke(app, ["dead-letters", "write-off", str(first), "--reason", "x"], input="n\n")
    assert refused.exit_code == 1
    assert len(ids()) == 2


def test_reconcile_names_every_account_that_drifts_and_by_how_much(migrated: Engine) -> None:
    assert typed("reconcile").exit_code == 0
    with migrated.begin() as connection:
        connection.execute(update(users).values(quota=users.c.quota + 7))
    drifted = typed("reconcile")
    assert drifted.exit_code == 1
    assert "wallet 1: expected 999,800, found 999,807, difference +7 ($0.000014)" in drifted.stdout
    line = json.loads(typed("reconcile", "--json", "--user", "1", "--since", "1h").stdout)
    assert (line["what"], line["difference"]) == ("wallet", 7)
    assert typed("reconcile", "--user", "2").exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dead-letters", "show", "99"), "there is no dead letter 99"),
        (("dead-letters", "list", "--older-than", "soon"), "--older-than: must be like"),
        (("reconcile", "--since", "13x"), "--since: must be like"),
        (("dead-letters", "write-off", "1", "--reason", "x" * 256, "--yes"), "reason: must have 1 to 255 characters"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(migrated: Engine, words: tuple[str, ...], said: str) -> None:
    refused = typed(*words)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["list", "show", "replay", "write-off", "purge"])
def test_every_command_shows_an_example(command: str) -> None:
    said = typed("dead-letters", command, "--help", env={"COLUMNS": "200"}).stdout
    assert "Example: " in said
    assert f"python -m worker dead-letters {command}" in said
