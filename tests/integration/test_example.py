"""docs/examples/relay.py, run as its page says, with a real worker and clients that behave badly."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from relay_billing import BillingSession, Ledger
from tests.fixtures.accounts import given, token, wallet
from tests.fixtures.brokers import answers, free_port, on
from tests.fixtures.waiting import until
from tests.fixtures.workers import Site, Spawn

TIMEOUT_S = 40.0
WEALTH = 1_000_000
PER_EVENT = 30
"""Quota: three tokens at ten each."""
UVICORN = (sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--log-level", "warning")

pytestmark = on("redis")
StartRelay = Callable[..., httpx.Client]


def serve(spawn: Spawn, app: str, env: dict[str, str]) -> str:
    """Start one app; return its address."""
    port = free_port()
    folder = ("--app-dir", "docs/examples") if app.startswith("relay") else ()
    process = spawn((*UVICORN, *folder, "--port", str(port), app), os.environ | env)

    def ready() -> bool:
        assert process.popen.poll() is None, process.output
        return answers(port)

    until(ready, TIMEOUT_S, f"{app} listening")
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def upstream(spawn: Spawn) -> str:
    return serve(spawn, "tests.fixtures.upstream:app", {})


@pytest.fixture
def relay(site: Site, spawn: Spawn, upstream: str) -> StartRelay:
    """Start the example with these upstreams, and a worker."""
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    site.worker(sweep_interval=3600)

    def start(*paths: str) -> httpx.Client:
        upstreams = ",".join(upstream + path for path in paths)
        env = {"DATABASE_URL": site.database_url, "BROKER_URL": site.broker.url, "UPSTREAMS": upstreams}
        headers = {"Authorization": "Bearer sk-example"}
        return httpx.Client(base_url=serve(spawn, "relay:app", env), headers=headers, timeout=TIMEOUT_S)

    return start


def ask(client: httpx.Client, key: str, max_tokens: int = 1_000) -> httpx.Response:
    """A client's request, and all of its answer."""
    body = {"prompt": "hello", "max_tokens": max_tokens}
    return client.post("/v1/chat", json=body, headers={"Idempotency-Key": key})


@contextmanager
def stream(client: httpx.Client, key: str) -> Iterator[Iterator[str]]:
    """The lines of an answer as they come; left early, the client has hung up."""
    with client.stream("POST", "/v1/chat", json={"prompt": "hello"}, headers={"Idempotency-Key": key}) as answer:
        yield answer.iter_lines()


def ended(site: Site, key: str) -> BillingSession:
    """The session, once a worker has closed it."""
    ledger = Ledger(site.engine)
    until(lambda: ledger.get(f"1-{key}").closed_at is not None, TIMEOUT_S, f"{key} closed")
    return ledger.get(f"1-{key}")


def facts(session: BillingSession) -> tuple[str, int | None, str | None]:
    return session.state.value, session.actual_quota, session.reason


def proven(site: Site, spent: int) -> None:
    assert wallet(site.engine) == token(site.engine) == WEALTH - spent
    assert Ledger(site.engine).reconcile() == []


def test_a_whole_stream_is_charged_for_what_it_used(site: Site, relay: StartRelay) -> None:
    with relay("/fails", "/answers/4") as client:
        answer = ask(client, "whole")
    assert answer.status_code == 200
    assert answer.text.count('"text"') == 4
    assert answer.text.endswith('data: {"done": true}\n\n')
    assert facts(ended(site, "whole")) == ("settled", 4 * PER_EVENT, None)
    proven(site, 4 * PER_EVENT)


CUT = {
    # events before the silence: what becomes of the session
    2: ("settled", 2 * PER_EVENT, "client_gone"),
    0: ("refunded", None, "client_gone"),
}


@pytest.mark.parametrize("events", CUT)
def test_a_stream_cut_by_its_client_settles_what_was_used_or_refunds(
    site: Site, relay: StartRelay, events: int
) -> None:
    with relay(f"/stalls/{events}") as client, stream(client, "cut") as lines:
        seen = [next(lines) for _ in range(2 * events)]
    assert len([line for line in seen if line]) == events
    session = ended(site, "cut")
    assert facts(session) == CUT[events]
    proven(site, CUT[events][1] or 0)


FAILS = {
    "/fails": (502, "refunded", None),
    "/breaks/0": (200, "refunded", None),
    "/breaks/3": (200, "settled", 3 * PER_EVENT),
}


@pytest.mark.parametrize("path", FAILS)
def test_an_upstream_that_fails_costs_only_what_it_gave(site: Site, relay: StartRelay, path: str) -> None:
    status, state, actual = FAILS[path]
    with relay(path) as client:
        answer = ask(client, "failed")
    assert answer.status_code == status
    assert '"done": true' not in answer.text
    assert facts(ended(site, "failed")) == (state, actual, "upstream_error")
    proven(site, actual or 0)


def test_a_request_that_is_tried_again_is_charged_once(site: Site, relay: StartRelay) -> None:
    with relay("/answers/4") as client:
        assert ask(client, "twice").status_code == 200
        again = ask(client, "twice")
        other = ask(client, "twice", max_tokens=7)
    codes = [(answer.status_code, answer.json()["error"]["code"]) for answer in (again, other)]
    assert codes == [(409, "already_answered"), (409, "idempotency_conflict")]
    ended(site, "twice")
    proven(site, 4 * PER_EVENT)


def test_a_request_that_is_being_answered_is_not_begun_again(site: Site, relay: StartRelay) -> None:
    with relay("/stalls/1") as client:
        with stream(client, "busy") as lines:
            next(lines)
            again = ask(client, "busy")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "in_progress")
    assert facts(ended(site, "busy")) == ("settled", PER_EVENT, "client_gone")
    proven(site, PER_EVENT)


def test_a_request_beyond_the_wallet_is_refused_with_its_code(site: Site, relay: StartRelay) -> None:
    with relay("/answers/1") as client:
        answer = ask(client, "poor", max_tokens=100_000)
        dear = ask(client, "dearer", max_tokens=100_000)
    assert answer.status_code == 200
    assert (dear.status_code, dear.json()["error"]["code"]) == (403, "insufficient_user_quota")
