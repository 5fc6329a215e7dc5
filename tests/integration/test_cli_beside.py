"""`reconcile` and `--adopt` as operators type them beside a living relay, in-process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update
from typer.testing import CliRunner, Result

from relay_billing import Ledger, Policy, SettleJob
from relay_billing.domain.ownership import Accounts
from relay_billing.schema import billing_ledger, billing_sessions
from relay_billing.store.drivers import engine_of
from tests.fixtures.accounts import wallet
from tests.fixtures.new_api import NEW_API, TOKENS, USERS, new_api_rows
from tests.fixtures.typed import named_by_settings
from worker.cli import app

NAMED = """\
outside wallet 1: expected 930, found 5,930, difference +5,000 ($0.010000)
outside token 1: expected 930, found 900, difference -30 (-$0.000060)
"""


@pytest.fixture
def beside(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A relay's own tables with ours beside them, and what the relay has changed since a settle of ours."""
    relay = engine_of(empty_url)
    NEW_API.create_all(relay)
    relay.dispose()
    monkeypatch.setenv("BILLING_ACCOUNTS", "new-api")
    with named_by_settings(empty_url, tmp_path, monkeypatch, 160) as engine:
        new_api_rows(engine, user=[{"id": 1, "quota": 1_000}], token=[{"id": 1, "user_id": 1, "remain_quota": 1_000}])
        ledger = Ledger(engine, Policy(trust_quota=0, accounts=Accounts.NEW_API))
        ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
        ledger.apply([SettleJob("r1", 70)])
        with engine.begin() as connection:
            connection.execute(update(USERS).values(quota=USERS.c.quota + 5_000))
            connection.execute(update(TOKENS).values(remain_quota=900))
        yield engine


def typed(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, words, input=answer)


def adjustments(engine: Engine) -> list[tuple[str, int]]:
    c = billing_ledger.c
    with engine.connect() as connection:
        rows = connection.execute(select(c.account_type, c.amount).where(c.kind == "adjust").order_by(c.id))
        return [(row.account_type, row.amount) for row in rows]


def test_what_the_relay_has_changed_is_named_apart_and_is_no_drift(beside: Engine) -> None:
    shown = typed("reconcile")
    assert shown.exit_code == 0
    assert shown.stdout == NAMED + "no drift: every session adds up; others have changed what is named `outside`\n"
    lines = [json.loads(each) for each in typed("reconcile", "--json").stdout.splitlines()]
    assert [(each["what"], each["outside"], each["difference"]) for each in lines] == [
        ("wallet", True, 5_000),
        ("token", True, -30),
    ]
    assert adjustments(beside) == []


def test_a_session_that_is_off_is_a_drift_there_too(beside: Engine) -> None:
    with beside.begin() as connection:
        connection.execute(update(billing_sessions).values(actual_quota=71))
    shown = typed("reconcile")
    assert shown.exit_code == 1
    assert NAMED in shown.stdout
    assert "session r1: expected -71, found -70, difference +1" in shown.stdout


def test_an_adoption_asks_first_and_is_done_once(beside: Engine) -> None:
    refused = typed("reconcile", "--adopt", answer="n\n")
    assert refused.exit_code == 2
    assert "Write one ledger row for each of 2 accounts?" in refused.stderr
    assert "nothing was written" in refused.stderr
    assert adjustments(beside) == []
    done = typed("reconcile", "--adopt", answer="y\n")
    assert done.exit_code == 0
    assert "adopted: 2 accounts, 4,970 ($0.009940) in all; no balance was changed" in done.stdout
    assert adjustments(beside) == [("wallet", 5_000), ("token", -30)]
    assert wallet(beside) == 5_930
    again = typed("reconcile", "--adopt", "--yes")
    assert (again.exit_code, again.stdout) == (0, "no drift: every account and every session adds up\n")
    assert adjustments(beside) == [("wallet", 5_000), ("token", -30)]


def test_a_script_adopts_without_being_asked_one_user_alone(beside: Engine) -> None:
    assert typed("reconcile", "--adopt", "--yes", "--user", "2").exit_code == 0
    assert adjustments(beside) == []
    done = typed("reconcile", "--adopt", "--yes", "--user", "1", "--json")
    assert [json.loads(each)["difference"] for each in done.stdout.splitlines()] == [5_000, -30]
    assert len(adjustments(beside)) == 2


def test_our_own_accounts_are_never_adopted(beside: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_ACCOUNTS", "own")
    assert typed("reconcile").exit_code == 1
    refused = typed("reconcile", "--adopt", "--yes")
    assert refused.exit_code == 2
    assert "--adopt is for BILLING_ACCOUNTS=new-api" in refused.stderr
    assert adjustments(beside) == []
