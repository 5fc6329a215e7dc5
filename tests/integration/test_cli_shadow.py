"""`shadow report`: each request of a relay and its shadow gets one verdict, wherever the relay's log is."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text, update
from sqlalchemy.engine import make_url
from typer.testing import CliRunner, Result

from relay_billing import Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.flows.context import utc_now
from relay_billing.schema import billing_sessions, users
from relay_billing.store.drivers import engine_of
from tests.fixtures.accounts import given, insert, wallet
from tests.fixtures.new_api import LOGS
from tests.fixtures.typed import named_by_settings
from worker.cli import app

WEALTH = 1_000_000
CONSUME, TOP_UP, ERROR, REFUND = 2, 1, 5, 6


def typed(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, words, env=env)


@pytest.fixture
def migrated(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A migrated database with two users, which the settings name."""
    with named_by_settings(empty_url, tmp_path, monkeypatch, 160) as engine:
        given(
            engine,
            user=[{"id": 1, "quota": WEALTH}, {"id": 2, "quota": 50}],
            token=[{"id": of, "user_id": of, "remain_quota": WEALTH} for of in (1, 2)],
        )
        yield engine


@dataclass(slots=True)
class Relay:
    """A relay's own log."""

    engine: Engine
    rows: int = 0

    def log(self, request_id: str | None, quota: int | None, kind: int = CONSUME, user_id: int = 1) -> None:
        self.rows += 1
        row = {"id": self.rows, "user_id": user_id, "created_at": int(utc_now().timestamp()), "type": kind}
        insert(self.engine, LOGS, [{**row, "quota": quota, "request_id": request_id}])


def day(ours: Engine, log: Engine) -> Relay:
    """One request of each kind."""
    LOGS.create(log)
    relay, ledger = Relay(log), Ledger(ours, Policy(trust_quota=0, shadow=True))
    both = ("same", "Same", "differ", "back", "never", "free", "over", "below", "open", "part")
    ledger.pre_consume_many([PreConsume(each, 1, 1, 1_000, preference="wallet_only") for each in both])
    refused = [PreConsume(each, 2, 2, 1_000, preference="wallet_only") for each in ("refused", "both", "deep")]
    ledger.pre_consume_many([*refused, PreConsume("again", 2, 2, 60, preference="wallet_only")])
    ledger.pre_consume(request_id="again", user_id=2, token_id=2, quota=40, preference="wallet_only")
    settled = {"same": 700, "Same": 70, "differ": 700, "never": 300, "free": 0, "over": WEALTH + 9, "part": 500}
    ledger.apply([*(SettleJob(*each) for each in settled.items()), SettleJob("again", 40), RefundJob("back")])
    charged = {"same": 700, "Same": 70, "differ": 900, "over": WEALTH + 9, "part": 800, "open": 5, "theirs": 77}
    for request_id, quota in charged.items():
        relay.log(request_id, quota)
    for request_id, quota in {"refused": 30, "deep": 900, "again": 40}.items():
        relay.log(request_id, quota, user_id=2)
    relay.log("part", 300, REFUND)
    relay.log("theirs", 7, REFUND)
    relay.log("paid", 10**9, TOP_UP)
    relay.log("both", 0, ERROR)
    relay.log("", 3)
    relay.log(None, None)
    relay.log("below", 10)
    with ours.begin() as connection:
        connection.execute(update(users).where(users.c.id == 1).values(quota=-5))
    ledger.apply([SettleJob("below", 10)])
    return relay


EXPECTED = {
    # verdict: requests, ours, theirs
    "agreed": (7, 700 + 70 + 0 + 500 + 0 + 40 + 0, 700 + 70 + 500 + 40),
    "refused": (2, 0, 930),
    "overdrew": (2, WEALTH + 9 + 10, WEALTH + 9 + 10),
    "differ": (1, 700, 900),
    "never_charged": (1, 300, 0),
    "only_theirs": (1, 0, 70),
    "open": (1, 0, 5),
    "not_compared": (0, 0, 0),
}


def checked(said: Result) -> dict[str, Any]:
    assert said.exit_code == 0, said.output
    found: dict[str, Any] = json.loads(said.stdout)
    sums = {name: (each["requests"], each["ours"], each["theirs"]) for name, each in found["verdicts"].items()}
    assert sums == EXPECTED
    assert all(each["difference"] == each["theirs"] - each["ours"] for each in found["verdicts"].values())
    assert found["verdicts"]["refused"]["overdrawn"] == 1
    assert found["verdicts"]["refused"]["theirs_usd"] == "$0.001860"
    assert found["rows_without_request_id"] == 2
    return found


def test_each_request_has_one_verdict_with_their_log_in_our_database(migrated: Engine) -> None:
    day(migrated, migrated)
    before = wallet(migrated), wallet(migrated, 2)
    found = checked(typed("shadow", "report", "--json"))
    listed = {each["request_id"]: (each["verdict"], each["difference"]) for each in found["requests"]}
    assert listed == {
        "deep": ("refused", 900),
        "never": ("never_charged", -300),
        "differ": ("differ", 200),
        "theirs": ("only_theirs", 70),
        "refused": ("refused", 30),
        "over": ("overdrew", 0),
        "below": ("overdrew", 0),
    }
    assert [each["request_id"] for each in found["requests"]][:3] == ["deep", "never", "differ"]
    assert (wallet(migrated), wallet(migrated, 2)) == before


def test_their_log_may_lie_in_another_database(migrated: Engine, tmp_path: Path) -> None:
    log = engine_of(f"sqlite:///{tmp_path / 'log.db'}")
    day(migrated, log)
    log.dispose()
    words = ("shadow", "report", "--logs-database", f"sqlite:///{tmp_path / 'log.db'}")
    checked(typed(*words, "--json"))
    shown = typed(*words, "--since", "2h", "--limit", "2")
    assert shown.exit_code == 0
    for words_ in ("we would have refused", "+930", "$0.001860", "1 of those", "2 rows of their log", "deep", "never"):
        assert words_ in shown.stdout
    assert "not compared" not in shown.stdout
    assert "differ " not in shown.stdout.split("Requests that differ most")[1]


def test_without_a_log_our_own_side_is_shown_alone(migrated: Engine) -> None:
    relay = day(migrated, migrated)
    LOGS.drop(relay.engine)
    shown = typed("shadow", "report")
    assert (shown.exit_code, "no table logs here" in shown.stdout) == (0, True)
    found = json.loads(typed("shadow", "report", "--json").stdout)
    counts = {name: each["requests"] for name, each in found["verdicts"].items() if each["requests"]}
    assert (found["log"], counts) == (False, {"refused": 3, "open": 1, "not_compared": 10})


def test_only_what_began_in_the_time_asked_for_is_compared(migrated: Engine) -> None:
    day(migrated, migrated)
    c = billing_sessions.c
    with migrated.begin() as connection:
        # Begun before, charged after: known to us, and not compared any more.
        old = update(billing_sessions).where(c.request_id == "differ").values(created_at=c.created_at - 1_800_000)
        connection.execute(old)
    found = json.loads(typed("shadow", "report", "--since", "10m", "--json").stdout)
    counts = {name: each["requests"] for name, each in found["verdicts"].items()}
    assert (counts["differ"], counts["only_theirs"], counts["agreed"]) == (0, 1, 7)
    longer = json.loads(typed("shadow", "report", "--since", "45m", "--json").stdout)
    assert longer["verdicts"]["differ"]["requests"] == 1


def test_before_the_shadow_began_nothing_is_compared(migrated: Engine) -> None:
    relay = day(migrated, migrated)
    with relay.engine.begin() as connection:
        row = {"id": 99, "type": CONSUME, "quota": 5, "request_id": "before", "created_at": 1}
        connection.execute(LOGS.insert().values(**row))
    checked(typed("shadow", "report", "--since", "1970-01-01", "--json"))


def test_a_report_of_nothing_asks_whether_the_shadow_is_on(migrated: Engine) -> None:
    shown = typed("shadow", "report")
    assert (shown.exit_code, "is BILLING_SHADOW on?" in shown.stdout) == (0, True)


def test_the_plot_is_a_png(migrated: Engine, tmp_path: Path) -> None:
    day(migrated, migrated)
    file = tmp_path / "shadow.png"
    assert typed("shadow", "report", "--plot", str(file)).exit_code == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 10_000


WRONG = [
    (("--since", "yesterday"), "--since: must be like 30m"),
    (("--limit", "-1"), "Invalid value for '--limit'"),
    (("--plot", "shadow.svg"), "--plot: the file must end in .png"),
    (("--plot", "/nowhere/at/all/shadow.png"), "--plot: there is no folder /nowhere/at/all"),
    (("--logs-database", "sqlite:////nowhere/log.db"), "--logs-database: there is no file /nowhere/log.db"),
    (("--logs-database", "oracle://x"), "--logs-database: oracle is not supported"),
    (("--logs-database", "what"), "--logs-database: "),
    (("--logs-database", "postgresql://log:geheim@127.0.0.1:1/x"), "postgresql://log:***@127.0.0.1:1/x can't be read"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_what_is_wrong_is_one_line_and_exit_code_2(migrated: Engine, words: tuple[str, ...], said: str) -> None:
    _refused(typed("shadow", "report", *words), said)


def _refused(refused: Result, said: str) -> None:
    assert refused.exit_code == 2, refused.output
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "geheim" not in refused.output
    assert refused.stdout == ""


def test_a_missing_table_or_column_of_a_named_log_is_said(migrated: Engine) -> None:
    url = make_url(str(migrated.url)).set(password=migrated.url.password).render_as_string(hide_password=False)
    _refused(typed("shadow", "report", "--logs-database", url), "has no table logs")
    with migrated.begin() as connection:
        connection.execute(text("CREATE TABLE logs (id BIGINT, type BIGINT, quota BIGINT, created_at BIGINT)"))
    _refused(typed("shadow", "report"), "has no column request_id")


def test_a_log_without_users_is_read_too(migrated: Engine) -> None:
    day(migrated, migrated)
    with migrated.begin() as connection:
        connection.execute(text("ALTER TABLE logs DROP COLUMN user_id"))
    checked(typed("shadow", "report", "--json"))


def test_every_command_has_json_and_an_example() -> None:
    said = typed("shadow", "report", "--help", env={"COLUMNS": "200"}).stdout
    assert "--json" in said
    assert "python -m worker shadow report" in said


def test_a_shadow_session_is_shown_as_one_and_counts_in_no_sum(migrated: Engine) -> None:
    day(migrated, migrated)
    said = typed("sessions", "show", "same").stdout
    assert said.startswith("request same: settled, shadow, paid from wallet")
    assert "Judged in shadow, so nothing has moved; else: User 1 was charged 700" in said
    assert json.loads(typed("sessions", "show", "same", "--json").stdout)["paid"] == {}
    listed = typed("sessions", "list", "--state", "preconsumed").stdout
    assert "preconsumed, shadow" in listed
    assert "1 sessions, 0 ($0.000000) held" in listed
    settled = typed("sessions", "settle", "open", "5", "--reason", "a test", "--yes").stdout
    assert settled == "open: applied, now settled, in shadow: nothing moved\n"
    assert wallet(migrated) == -5
    assert typed("reconcile").exit_code == 0
