"""Sessions, users, tokens, top-ups and settings as operators type them, in-process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from relay_billing import Ledger, Policy, RefundJob, SettleJob
from relay_billing.flows import dead_letters
from relay_billing.flows.dead_letters import Filter
from tests.fixtures.accounts import given, states, token, wallet
from tests.fixtures.brokers import free_port
from tests.fixtures.typed import named_by_settings
from worker.cli import app

WEALTH = 1_000_000
HUGE = 600_000_000
KEY = "sk-planted-0123456789"


@pytest.fixture
def migrated(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A migrated database with a session in every state, which the settings name."""
    with named_by_settings(empty_url, tmp_path, monkeypatch, 160) as engine:
        key = {"id": 1, "user_id": 1, "name": "laptop", "key": KEY, "remain_quota": WEALTH}
        given(engine, user=[{"id": 1, "username": "ada", "quota": WEALTH}], token=[key])
        ledger = Ledger(engine, Policy(trust_quota=0))
        for name in ("settled", "refunded", "parked", "intended", "open"):
            ledger.pre_consume(request_id=name, user_id=1, token_id=1, quota=100, model_name="gpt-4o")
        ledger.apply([SettleJob("settled", 70), RefundJob("refunded", "upstream_error"), SettleJob("parked", HUGE)])
        ledger.intend([SettleJob("intended", 30)])
        yield engine


def typed(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, words, input=answer)


def told(*words: str) -> object:
    done = typed(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("request_id", "why"),
    [
        ("settled", "was charged 70 ($0.000140) from wallet 1 because that is what the request was settled with; 100"),
        ("refunded", "was charged nothing: the request was refunded, reason upstream_error"),
        ("parked", "is parked (implausible_amount) until an operator decides, see dead letter 1."),
        ("intended", "the relay asked to settle with 30 ($0.000060) at"),
        ("open", "when it goes back unless the relay settles or refunds before."),
    ],
)
def test_a_story_ends_with_why_the_user_was_charged(migrated: Engine, request_id: str, why: str) -> None:
    shown = typed("sessions", "show", request_id)
    assert shown.exit_code == 0
    assert why in shown.stdout.strip().splitlines()[-1]
    assert "pre_consume" in shown.stdout
    values = json.loads(typed("sessions", "show", request_id, "--json").stdout)
    assert why in values["why"]
    assert {"session", "timeline", "ledger", "dead_letters", "paid"} <= set(values)


def test_sessions_are_listed_and_filtered(migrated: Engine) -> None:
    listed = typed("sessions", "list")
    assert "5 sessions, 300 ($0.000600) held, 70 ($0.000140) charged" in listed.stdout
    assert told("sessions", "list", "--state", "refunded", "--user", "1") != []
    assert told("sessions", "list", "--token", "2") == []
    assert told("sessions", "list", "--at-least", "1usd") == []
    assert told("sessions", "list", "--older-than", "1h") == []
    assert len(json.loads(typed("sessions", "list", "--newer-than", "1h", "--limit", "2", "--json").stdout)) == 2
    assert typed("sessions", "list", "--user", "2").stdout == "no sessions\n"


def test_a_hold_is_released_by_hand_only_after_asking(migrated: Engine) -> None:
    refused = typed("sessions", "release", "open", answer="n\n")
    assert (refused.exit_code, states(migrated)["open"]) == (1, "preconsumed")
    done = typed("sessions", "release", "open", "--reason", "ticket 4711", answer="y\n")
    assert (done.exit_code, states(migrated)["open"]) == (0, "refunded")
    assert wallet(migrated) == token(migrated) == WEALTH - 70 - 200
    assert "ticket 4711" in typed("sessions", "show", "open").stdout
    assert typed("reconcile").exit_code == 0


def test_a_session_is_settled_by_hand_once(migrated: Engine) -> None:
    words = ("sessions", "settle", "open", "0.0001usd", "--reason", "ticket 4711", "--yes")
    assert [typed(*words).exit_code for _ in range(2)] == [0, 0]
    assert (states(migrated)["open"], wallet(migrated)) == ("settled", WEALTH - 70 - 200 - 50)
    assert typed("sessions", "settle", "parked", "80", "--reason", "agreed", "--yes").exit_code == 0
    assert states(migrated)["parked"] == "settled"
    assert typed("reconcile").exit_code == 0


def test_a_user_and_a_token_are_shown_without_the_key(migrated: Engine) -> None:
    for words in (("users", "show", "1"), ("tokens", "show", "1")):
        shown, values = typed(*words), typed(*words, "--json")
        assert (shown.exit_code, values.exit_code) == (0, 0)
        assert "laptop" in shown.stdout
        assert "sk-p***" in shown.stdout
        assert KEY not in shown.stdout + values.stdout
        assert json.loads(values.stdout)["held"] == 300


def test_a_top_up_is_safe_to_repeat(migrated: Engine) -> None:
    before = wallet(migrated)
    words = ("top-up", "1", "5usd", "--reference", "invoice-1")
    assert [typed(*words).exit_code for _ in range(2)] == [0, 0]
    assert wallet(migrated) == before + 2_500_000
    assert json.loads(typed(*words, "--json").stdout)["replayed"] is True
    assert typed("reconcile").exit_code == 0


def test_settings_are_shown_with_their_origin_and_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("BILLING_HOLD_TTL=600\n")
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://billing:geheim@db/billing?sslpassword=geheim")
    monkeypatch.setenv("BILLING_BROKER_URL", "redis://:geheim@redis:6379/0")
    monkeypatch.setenv("BILLING_FLOWER_BASIC_AUTH", "ada:geheim")
    monkeypatch.setenv("BILLING_WEBHOOK_URL", "https://hooks.example.org/services/geheim")
    monkeypatch.setenv("BILLING_WEBHOOK_SECRET", "geheim-geheim-geheim")
    shown, values = typed("config", "show"), json.loads(typed("config", "show", "--json").stdout)
    assert values["BILLING_BROKER_URL"] == {"value": "redis://:***@redis:6379/0", "source": "environment"}
    assert values["BILLING_HOLD_TTL"] == {"value": 600, "source": ".env"}
    assert values["BILLING_TRUST_QUOTA"]["source"] == "default"
    assert "geheim" not in shown.output + json.dumps(values)


WRONG = [
    (("sessions", "show", "nobody"), "nothing is known of request 'nobody'"),
    (("sessions", "show", "x" * 65), "request_id: must have 1 to 64 characters"),
    (("sessions", "list", "--state", "lost"), "'lost' is not one of"),
    (("sessions", "list", "--older-than", "99999999999d"), "--older-than: must be like"),
    (("sessions", "release", "nobody", "--yes"), "no session has request id 'nobody'"),
    (("sessions", "release", "settled", "--yes"), "is settled already with 70 ($0.000140)"),
    (("sessions", "release", "refunded", "--yes"), "is refunded already"),
    (("sessions", "release", "intended", "--yes"), "its relay asked to settle with 30"),
    (("sessions", "release", "open", "--reason", "x" * 65, "--yes"), "reason: must have 0 to 64 characters"),
    (("sessions", "settle", "settled", "71", "--reason", "x", "--yes"), "is settled already with 70"),
    (("sessions", "settle", "intended", "31", "--reason", "x", "--yes"), "its relay asked to settle with 30"),
    (("sessions", "settle", "open", "2000usd", "--reason", "x", "--yes"), "above BILLING_MAX_SETTLE_QUOTA"),
    (("sessions", "settle", "open", "much", "--reason", "x", "--yes"), "AMOUNT: must be quota like 250000"),
    (("sessions", "settle", "open", "5"), "Missing option '--reason'"),
    (("users", "show", "99"), "there is no user 99"),
    (("users", "show", "ada"), "Invalid value for 'ID'"),
    (("users", "show", "0"), "Invalid value for 'ID'"),
    (("tokens", "show", "99"), "there is no token 99"),
    (("top-up", "99", "5", "--reference", "r"), "user 99 does not exist"),
    (("top-up", "1", "0", "--reference", "r"), "AMOUNT: must be between 1 and"),
    (
        ("top-up", "1", "-5", "--reference", "r"),
        "AMOUNT: must be quota like 250000, or dollars like 5usd or $5.25, got '-5'",
    ),
    (("sessions", "settle", "r1", "-5", "--reason", "r"), "AMOUNT: must be quota like"),
    (("top-up", "1", "5", "--refrence", "r"), "Missing option '--reference'"),
    (("top-up", "1", "0.0000001usd", "--reference", "r"), "AMOUNT: must be quota like"),
    (("top-up", "1", "0.000001usd", "--reference", "r"), "AMOUNT: '0.000001usd' is no whole number of quota"),
    (("top-up", "1", "5", "--reference", ""), "reference: must have 1 to 64 characters"),
    (("top-up", "1"), "Missing argument 'AMOUNT'"),
    (("sesions",), "No such command 'sesions'"),
    (("config", "show", "--all"), "No such option"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_what_is_wrong_is_one_line_and_exit_code_2(migrated: Engine, words: tuple[str, ...], said: str) -> None:
    before = states(migrated), wallet(migrated)
    refused = typed(*words)
    assert refused.exit_code == 2, refused.output
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert refused.stdout == ""
    assert (states(migrated), wallet(migrated)) == before


COMMANDS: list[tuple[str, ...]] = [
    ("sessions", "list"),
    ("sessions", "show", "r1"),
    ("sessions", "release", "r1", "--yes"),
    ("sessions", "settle", "r1", "5", "--reason", "x", "--yes"),
    ("users", "show", "1"),
    ("tokens", "show", "1"),
    ("top-up", "1", "5", "--reference", "r"),
    ("dead-letters", "list"),
    ("dead-letters", "show", "1"),
    ("dead-letters", "replay", "1"),
    ("dead-letters", "write-off", "1", "--reason", "x", "--yes"),
    ("dead-letters", "purge"),
    ("webhooks", "list"),
    ("reconcile",),
    ("migrate",),
]


@pytest.mark.parametrize("more", [(), ("--json",)])
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:30])
def test_a_database_that_is_down_is_one_line_and_exit_code_2(
    words: tuple[str, ...], more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", f"postgresql://billing:geheim@127.0.0.1:{free_port()}/billing")
    monkeypatch.setenv("BILLING_VAR_DIR", str(tmp_path))
    refused = typed(*words, *more)
    assert refused.exit_code == 2, refused.output
    assert "BILLING_DATABASE_URL" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "geheim" not in refused.output
    assert refused.stdout == ""


@pytest.mark.parametrize("words", [*COMMANDS, ("config", "show"), ("status",)], ids=lambda words: " ".join(words)[:30])
def test_every_command_has_json_and_an_example(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    named = (
        words[:2] if words[0] in ("sessions", "users", "tokens", "dead-letters", "webhooks", "config") else words[:1]
    )
    said = typed(*named, "--help").stdout
    assert "--json" in said
    assert "Example: " in said
    assert f"python -m worker {' '.join(named)}" in said


def test_an_implausible_settle_is_replaced_by_hand_as_the_runbook_says(migrated: Engine) -> None:
    ledger = Ledger(migrated, Policy(trust_quota=0))
    ledger.intend([SettleJob("open", HUGE)])
    ledger.apply([SettleJob("open", HUGE)])
    letter = ledger.read(dead_letters.find, Filter())[-1].id
    assert typed("sessions", "settle", "open", "80", "--reason", "ticket", "--yes").exit_code == 0
    assert typed("dead-letters", "write-off", str(letter), "--reason", "settled by hand", "--yes").exit_code == 0
    assert (states(migrated)["open"], wallet(migrated)) == ("settled", WEALTH - 70 - 200 - 80)
    assert "was charged 80 ($0.000160) from wallet 1" in typed("sessions", "show", "open").stdout
    assert typed("reconcile").exit_code == 0
