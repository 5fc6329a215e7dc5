"""What a whole run writes: every line about a session says whose it is, and no line holds a secret."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text
from typer.testing import CliRunner

from relay_billing import BillingUnavailable
from tests.fixtures.accounts import states
from tests.fixtures.databases import POSTGRESQL
from tests.fixtures.flower import PASSWORD, SECRETS, TOKEN_KEY, USER, Watched
from tests.fixtures.waiting import until
from tests.fixtures.wire import Foreign
from tests.fixtures.workers import CELERY, Process, environment
from worker.cli import app

TIMEOUT_S = 60.0
COMMANDS: list[tuple[str, ...]] = [
    ("config", "show"),
    ("sessions", "list"),
    ("sessions", "show", "r1"),
    ("users", "show", "1"),
    ("tokens", "show", "1"),
    ("status",),
    ("health",),
    ("reconcile",),
]


def _beat(watched: Watched, **settings: object) -> Process:
    site = watched.site
    env = environment(site.database_url, site.broker.url, site.folder / "beat", log_format="json", **settings)
    return site.spawn((*CELERY, "beat", "-l", "INFO"), env)


def _lines(process: Process) -> list[dict[str, Any]]:
    """The lines of a JSON log; Celery's banner is none."""
    return [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]


def _operator(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> str:
    """What an operator's commands show, errors too."""
    site = watched.site
    own = environment(site.database_url, site.broker.url, site.folder / "operator")
    for name in [each for each in own if each.startswith("BILLING_")]:
        monkeypatch.setenv(name, own[name])
    monkeypatch.setenv("BILLING_FLOWER_BASIC_AUTH", f"{USER}:{PASSWORD}")
    shown = [CliRunner().invoke(app, (*words, *more)) for words in COMMANDS for more in ((), ("--json",))]
    assert not [each.output for each in shown if each.exception and not isinstance(each.exception, SystemExit)]
    return "\n".join(each.output for each in shown)


def _without_secrets(written: Sequence[str]) -> None:
    for output in written:
        found = [secret for secret in SECRETS if secret in output]
        assert not found, (found, [line for line in output.splitlines() if any(each in line for each in found)][:3])


def _about_sessions(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if "request_id" in line]


def test_a_whole_run_tells_whose_session_it_is_and_no_secret(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    worker = watched.site.worker("logging", log_format="json", unknown_session_retries=0, sweep_interval=3600)
    beat = _beat(watched, sweep_interval=1)
    watched.hold_and_settle(0, 3)
    until(lambda: set(states(watched.site.engine).values()) == {"settled"}, TIMEOUT_S, "all settled")
    watched.client.refund("r1")
    watched.client.settle("r1", 99)
    watched.client.settle("nobody", 7)
    watched.client.pre_consume(request_id="huge", user_id=1, token_id=1, quota=10)
    watched.client.settle("huge", 900_000_000)
    site = watched.site
    Foreign("billing.settle", {"jobs": [], "url": site.database_url, "key": TOKEN_KEY}).post(site.broker)
    Foreign("billing.nothing", {"url": site.broker.url, "key": TOKEN_KEY}).post(site.broker)

    def told() -> set[str]:
        return {line.get("reason", "") for line in _lines(worker) if line["event"] == "dead letter"}

    until(lambda: told() >= {"unknown_session", "invalid_message"}, TIMEOUT_S, "dead letters told")
    until(lambda: any(line.get("outcome") == "parked" for line in _lines(worker)), TIMEOUT_S, "the park told")
    lines = _lines(worker)
    own = [line for line in _about_sessions(lines) if line.get("request_id")]
    assert {line["request_id"] for line in own} >= {"r0", "r1", "r2", "nobody", "huge"}
    assert all("user_id" in line and line["task_id"] for line in own), own
    assert {line["user_id"] for line in own if line["request_id"] != "nobody"} == {1}
    assert all(line["jobs"] >= 1 for line in lines if line["event"] == "message judged")
    until(lambda: "billing.sweep" in beat.output, TIMEOUT_S, "beat at work")
    pages = [watched.fetch(page)[1] for page in ("/tasks", "/broker", "/metrics", "/api/tasks")]
    written = [worker.output, beat.output, watched.process.output, caplog.text, _operator(watched, monkeypatch)]
    _without_secrets([*written, *pages])


@contextmanager
def _database_away(url: str) -> Iterator[None]:
    """As when it restarts: connections are cut, new ones refused."""
    name = make_url(url).database
    server = create_engine(POSTGRESQL, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    with server.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"))
        connection.execute(cut, {"name": name})
        try:
            yield
        finally:
            connection.execute(text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"))


@pytest.mark.parametrize("watched", ["redis"], indirect=True)
def test_outages_are_told_without_a_secret(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    worker = watched.site.worker("logging", log_format="json", sweep_interval=3600)
    beat = _beat(watched, sweep_interval=1)
    watched.hold_and_settle(0, 1)
    until(lambda: states(watched.site.engine) == {"r0": "settled"}, TIMEOUT_S, "the first one settled")
    until(lambda: "billing.sweep" in beat.output, TIMEOUT_S, "beat at work")
    with _database_away(watched.site.database_url):
        with pytest.raises(BillingUnavailable) as refused:
            watched.client.pre_consume(request_id="r9", user_id=1, token_id=1, quota=1)
        until(lambda: "the database is away" in worker.output, TIMEOUT_S, "the outage of the database told")
        during = _operator(watched, monkeypatch)
    watched.site.broker.stop()
    watched.hold_and_settle(1, 1)
    until(lambda: "onnection" in beat.output and "onnect" in worker.output, TIMEOUT_S, "the broker's outage told")
    until(lambda: "broker" in caplog.text, TIMEOUT_S, "the client's log")
    during += _operator(watched, monkeypatch)
    watched.site.broker.start()
    _without_secrets([worker.output, beat.output, watched.process.output, caplog.text, str(refused.value), during])
