"""Who may call the HTTP door."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from relay_billing import Ledger
from relay_billing.domain.api_keys import Scope, digest_of
from relay_billing.flows import api_keys, key_checks
from tests.faults.proxy import Proxy
from tests.fixtures.brokers import free_port
from tests.fixtures.databases import empty
from tests.fixtures.doors import ASK, HttpDoor, migrated, start
from tests.fixtures.typed import named_by_settings
from tests.fixtures.waiting import until
from tests.fixtures.workers import ROOT, Spawn, environment
from worker.cli import app

REMEMBERED_S = 5.0
SLACK_S = 3.0
CALLS: dict[Scope, list[tuple[str, str, object]]] = {
    Scope.HOLD: [
        ("POST", "/v1/sessions", {"request_id": "r1", **ASK}),
        ("POST", "/v1/sessions?dry_run=true", {"request_id": "r2", **ASK}),
        ("POST", "/v1/sessions/r1/reserve", {"target_quota": 100}),
        ("POST", "/v1/sessions:batch", [{"request_id": "r1", **ASK}]),
    ],
    Scope.END: [
        ("POST", "/v1/sessions/r1/settle", {"actual_quota": 1}),
        ("POST", "/v1/sessions/r1/refund", {}),
        ("POST", "/v1/ends:batch", [{"request_id": "r1"}]),
    ],
    Scope.READ: [
        ("GET", "/v1/sessions/r1", None),
        ("GET", "/v1/users/1", None),
        ("GET", "/v1/tokens/1", None),
        ("GET", "/metrics", None),
    ],
}


def test_each_scope_opens_its_calls_and_no_other(http_door: HttpDoor) -> None:
    keys = {scope: http_door.make_key(scope.value, scope) for scope in Scope}
    until(lambda: http_door.ask("GET", "/v1/users/1").status == 401, REMEMBERED_S + SLACK_S, "closed")
    for scope, calls in CALLS.items():
        for method, path, body in calls:
            for own, key in keys.items():
                got = http_door.ask(method, path, body, key=key)
                assert (got.status == 403) == (own is not scope), (own, path)
                assert own is not scope or got.status < 300, (own, path, got)
                if got.status == 403:
                    assert got.json["code"] == "forbidden"
            assert http_door.ask(method, path, body).status == 401
    for path in ("/livez", "/readyz", "/openapi.json"):
        assert http_door.ask("GET", path).status == 200


def test_what_is_no_key_opens_nothing(http_door: HttpDoor) -> None:
    key = http_door.make_key("one")
    until(lambda: http_door.ask("GET", "/v1/users/1").status == 401, REMEMBERED_S + SLACK_S, "closed")
    for wrong in (key[:-1], key + "x", key.upper(), "", " ", digest_of(key.encode()), "rb_", "x" * 5_000, "\xff"):
        got = http_door.ask("GET", "/v1/users/1", headers={"Authorization": f"Bearer {wrong}"})
        assert (got.status, got.json["code"]) == (401, "unauthorized"), wrong
        assert got.headers["www-authenticate"] == "Bearer"
    for header in ("Basic dTpw", key, "Bearer", "Token " + key):
        assert http_door.ask("GET", "/v1/users/1", headers={"Authorization": header}).status == 401, header
    assert http_door.ask("GET", "/v1/users/1", headers={"Authorization": f"bearer  {key} "}).status == 200
    # Before anything of the body is looked at.
    assert http_door.ask("POST", "/v1/sessions", b"{", headers={"Content-Type": "text/plain"}).status == 401


def test_a_key_ends_within_seconds_of_its_end_and_of_being_revoked(http_door: HttpDoor) -> None:
    soon = http_door.make_key("soon", expires_at=(time.time_ns() // 1_000_000) + 6_000)
    revoked = http_door.make_key("revoked")
    until(lambda: http_door.ask("GET", "/v1/users/1").status == 401, REMEMBERED_S + SLACK_S, "closed")
    assert http_door.ask("GET", "/v1/users/1", key=revoked).status == 200
    assert Ledger(http_door.engine).run(api_keys.revoke, "revoked")
    for key in (soon, revoked):
        until(
            lambda key=key: http_door.ask("GET", "/v1/users/1", key=key).status == 401,  # type: ignore[misc]
            REMEMBERED_S + SLACK_S,
            "refused",
        )
    # The last key is gone, and the door stays closed.
    assert http_door.ask("GET", "/v1/users/1").status == 401


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, str, Path]]:
    """A migrated database, its URL, and a folder."""
    url = empty("sqlite", request)
    engine = migrated(url)
    yield engine, url, tmp_path
    engine.dispose()


def test_without_a_key_it_starts_for_its_own_host_alone(urls: tuple[Engine, str, Path], spawn: Spawn) -> None:
    engine, url, folder = urls
    for address in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        env = environment(url, f"filesystem://{folder}", folder, api_address=address, api_port=free_port())
        done = subprocess.run(
            (sys.executable, "-m", "api"), env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2, done.stderr
        assert f"BILLING_API_ADDRESS: {address} can be reached from other hosts, and there is no key" in done.stderr
    door = start(engine, url, folder, spawn, api_address="localhost")
    assert door.hold("r1").status == 201
    assert "no key was ever made" in door.process.output
    # With a key it starts anywhere.
    key = door.make_key("one")
    open_to_all = start(engine, url, folder, spawn, api_address="0.0.0.0")
    assert open_to_all.hold("r2").status == 401
    assert open_to_all.ask("GET", "/v1/users/1", key=key).status == 200


def test_a_door_without_keys_serves_no_other_address_however_it_was_started(
    urls: tuple[Engine, str, Path], spawn: Spawn
) -> None:
    engine, url, folder = urls
    port = free_port()
    env = environment(url, f"filesystem://{folder}", folder)
    command = (sys.executable, "-m", "uvicorn", "--factory", "api.app:make_app", "--host", "0.0.0.0")
    door = HttpDoor(engine, port, spawn((*command, "--port", str(port), "--http", "api.protocol:Connection"), env))
    until(lambda: "running on" in door.process.output, 60, "running")
    assert door.ask("GET", "/v1/users/1").status == 200
    elsewhere = _address()
    if elsewhere is None:
        pytest.skip("this host has no address but loopback")
    caller = http.client.HTTPConnection(elsewhere, port, timeout=10)
    caller.request("GET", "/v1/users/1")
    assert caller.getresponse().status == 401
    caller.close()


def _address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found: str = probe.getsockname()[0]
    return None if found.startswith("127.") else found


def test_a_database_that_is_away_opens_nothing(request: pytest.FixtureRequest, tmp_path: Path, spawn: Spawn) -> None:
    direct = empty("postgresql", request)
    engine = migrated(direct)
    proxy = Proxy(engine.url.port or 5432)
    url = engine.url.set(drivername="postgresql", host="127.0.0.1", port=proxy.port)
    short = {"statement_timeout": "0.5", "call_timeout": "2", "connect_timeout": "2"}
    door = start(engine, url.update_query_dict(short).render_as_string(False), tmp_path, spawn)
    key = door.make_key("one")
    until(lambda: door.ask("GET", "/v1/users/1").status == 401, REMEMBERED_S + SLACK_S, "closed")
    assert door.ask("GET", "/v1/users/1", key=key).status == 200
    proxy.black = True
    assert door.ask("GET", "/v1/users/1", key="rb_unknown").status == 503
    until(
        lambda: (
            door.ask("GET", "/v1/users/1", key=key).json["detail"].startswith("the database")
            and door.ask("GET", "/v1/users/1", key="rb_other").status == 503
        ),
        REMEMBERED_S + 10,
        "away",
    )
    proxy.black = False
    until(lambda: door.ask("GET", "/v1/users/1", key=key).status == 200, 20, "back")
    proxy.close()
    engine.dispose()


def test_a_key_shows_nowhere(urls: tuple[Engine, str, Path], spawn: Spawn) -> None:
    engine, url, folder = urls
    door = start(engine, url, folder, spawn, log_format="json")
    key = door.make_key("planted", Scope.HOLD, Scope.READ)
    stranger = "rb_stranger-planted-0123456789-0123456789-01234"
    seen = [door.ask("GET", "/metrics", key=key).body, door.ask("GET", "/openapi.json").body]
    for used in (key, stranger):
        seen += [door.ask("POST", "/v1/sessions/r1/settle", {"actual_quota": 1}, key=used).body]
        seen += [door.ask("POST", "/v1/sessions", b"{", key=used).body]
    # A fault of ours, whose traceback is logged.
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE billing_sessions"))
    fault = door.ask("GET", "/v1/sessions/r1", key=key)
    assert fault.status in (500, 503)
    seen += [fault.body, door.process.output.encode()]
    for secret in (key, stranger, digest_of(key.encode())):
        assert [each for each in seen if secret.encode() in each] == []
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT * FROM billing_api_keys")).all()
    assert key not in str(kept)


def test_keys_are_made_listed_and_revoked_on_the_command_line(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def typed(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ("api-keys", *words))
        return done.exit_code, done.output

    with named_by_settings(empty_url, tmp_path, monkeypatch, 160) as engine:
        assert typed("list") == (0, "no API keys\n")
        code, shown = typed("create", "gateway", "--scope", "end", "--scope", "hold", "--expires-in", "90d")
        key, said = shown.splitlines()
        assert code == 0
        assert len(key) == 46
        assert key.startswith("rb_")
        assert said.startswith("may hold, end, until ")
        kept = Ledger(engine).read(key_checks.look_up, digest_of(key.encode()))
        assert kept is not None
        assert (kept[1].name, kept[1].scopes) == ("gateway", (Scope.HOLD, Scope.END))
        assert typed("create", "gateway", "--scope", "hold")[0] == 2
        for wrong in ("0d", "1y", "-1d", "d", "99999999999d", ""):
            assert typed("create", "other", "--scope", "hold", "--expires-in", wrong)[0] == 2, wrong
        assert typed("create", "x" * 65, "--scope", "hold")[0] == 2
        assert typed("create", "other")[0] == 2
        assert typed("create", "other", "--scope", "all")[0] == 2
        assert json.loads(typed("list", "--json")[1])[0]["state"] == "active"
        assert typed("revoke", "gateway") == (0, "gateway: revoked\n")
        assert typed("revoke", "gateway")[0] == 2
        assert "revoked" in typed("list")[1]
        again = json.loads(typed("create", "gateway", "--scope", "read", "--json")[1])
        assert again["key"] != key
        assert key not in typed("list")[1] + typed("list", "--json")[1]
