"""HTTP/1.1 as the door speaks it, byte by byte."""

import http.client
import io
import itertools
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from api.draining import DRAIN_S, FINISH_S
from api.limits import LOOK_S, MAX_BODY, MAX_DROPPED
from relay_billing import Ledger, Policy
from tests.fixtures.accounts import states
from tests.fixtures.doors import ASK, HttpDoor, migrated, start
from tests.fixtures.waiting import until
from tests.fixtures.workers import spawning

APART_S = 0.05
"""Between two pieces of a request, so that they come apart."""
GET_LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
Parsed = tuple[int, dict[str, str], bytes]
_numbers = itertools.count()


def fresh() -> str:
    """A request id that no other test has."""
    return f"r{next(_numbers)}"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpDoor]:
    """One for all that leave it running; on SQLite, since nothing here is the database's."""
    folder = tmp_path_factory.mktemp("door")
    url = f"sqlite:///{folder / 'billing.db'}"
    engine = migrated(url)
    with spawning(folder) as spawn:
        yield start(engine, url, folder, spawn)
    assert Ledger(engine, Policy(trust_quota=0)).reconcile() == []
    engine.dispose()


@contextmanager
def called(door: HttpDoor) -> Iterator[socket.socket]:
    """One connection."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield caller


def answer(caller: socket.socket, method: str = "GET") -> Parsed:
    """Read one answer and no byte more."""
    response = http.client.HTTPResponse(caller, method=method)
    # As large a piece as is buffered may hold the next answer: read byte by byte.
    response.fp = io.BufferedReader(caller.makefile("rb", buffering=0), 1)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    body = response.read()
    return response.status, headers, body


def hold(request_id: str, *lines: str, version: str = "1.1") -> bytes:
    """A hold, with further lines in its head."""
    body = json.dumps({"request_id": request_id, **ASK}).encode()
    head = [
        f"POST /v1/sessions HTTP/{version}",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, *lines, "", ""]).encode() + body


def ended(caller: socket.socket) -> bool:
    """Whether the door closes the connection, with nothing more to say."""
    return caller.recv(1) == b""


def cut(caller: socket.socket) -> bool:
    """Whether nothing can be sent any more."""
    try:
        caller.sendall(b"more")
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def test_requests_that_come_together_are_answered_in_their_order(door: HttpDoor) -> None:
    ids = [fresh() for _ in range(20)]
    with called(door) as caller:
        caller.sendall(b"".join(map(hold, ids)) + GET_LIVEZ)
        answers = [answer(caller) for _ in range(20)]
        assert [json.loads(body)["request_id"] for _, _, body in answers] == ids
        assert {status for status, _, _ in answers} == {201}
        assert answer(caller)[2] == b"alive\n"
        # And it goes on.
        caller.sendall(hold(fresh()))
        assert answer(caller)[0] == 201


def test_a_request_may_come_in_any_pieces(door: HttpDoor) -> None:
    with called(door) as caller:
        for byte in hold(fresh()):
            caller.sendall(bytes([byte]))
        assert answer(caller)[0] == 201
        two = hold(fresh()) + hold(fresh())
        for half in (two[:-7], two[-7:]):
            caller.sendall(half)
            time.sleep(APART_S)
        assert [answer(caller)[0] for _ in range(2)] == [201, 201]


def test_a_body_may_come_in_chunks(door: HttpDoor) -> None:
    body = json.dumps({"request_id": fresh(), **ASK}).encode()
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with called(door) as caller:
        caller.sendall(head + b"5\r\n" + body[:5] + b"\r\n%x\r\n" % len(body[5:]) + body[5:] + b"\r\n0\r\n\r\n")
        assert answer(caller)[0] == 201


@pytest.mark.parametrize("more", [f"Content-Length: {MAX_BODY + 1}", "Transfer-Encoding: chunked"])
def test_a_body_that_is_too_large_is_refused_before_it_has_come(door: HttpDoor, more: str) -> None:
    head = f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{more}\r\n\r\n".encode()
    with called(door) as caller:
        caller.sendall(head)
        if "chunked" in more:
            caller.sendall(b"%x\r\n" % (MAX_BODY + 2) + b" " * (MAX_BODY + 1))
        status, headers, body = answer(caller)
        assert (status, headers["connection"], json.loads(body)["code"]) == (413, "close", "body_too_large")
        assert ended(caller)


def test_who_sends_all_of_a_large_body_before_he_reads_has_the_answer(door: HttpDoor) -> None:
    size = 4 * MAX_BODY
    head = f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    with called(door) as caller:
        caller.sendall(head.encode() + b" " * size)
        assert answer(caller)[0] == 413
        assert ended(caller)


def test_who_sends_on_after_he_was_refused_is_cut(door: HttpDoor) -> None:
    with called(door) as caller:
        caller.sendall(b"nonsense\r\n\r\n")
        assert answer(caller)[0] == 400
        assert ended(caller)
        until(lambda: cut(caller), 2 * LOOK_S + 1, "cut")


def test_who_waits_to_be_asked_for_the_body_is_asked(door: HttpDoor) -> None:
    request = hold(fresh(), "Expect: 100-continue")
    head, _, body = request.partition(b"\r\n\r\n")
    with called(door) as caller:
        caller.sendall(head + b"\r\n\r\n")
        assert caller.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.sendall(body)
        assert answer(caller)[0] == 201


@pytest.mark.parametrize(
    ("request_", "kept"),
    [
        (hold(fresh()), True),
        (hold(fresh(), "Connection: close"), False),
        (hold(fresh(), version="1.0"), False),
        (hold(fresh(), "Connection: keep-alive", version="1.0"), False),
    ],
    ids=["1.1", "close", "1.0", "1.0 keep-alive"],
)
def test_a_connection_is_kept_as_the_request_says(door: HttpDoor, request_: bytes, kept: bool) -> None:
    with called(door) as caller:
        caller.sendall(request_)
        status, headers, body = answer(caller)
        assert (status, headers.get("connection")) == (201, None if kept else "close")
        assert "date" in headers
        if kept:
            caller.sendall(hold(fresh()))
            assert answer(caller)[0] == 201
        else:
            assert ended(caller)
    assert json.loads(body)["request_id"] in states(door.engine)


def test_head_has_the_length_and_no_body(door: HttpDoor) -> None:
    with called(door) as caller:
        caller.sendall(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(caller, "HEAD")[1]["content-length"] == "6"
        caller.sendall(GET_LIVEZ)
        assert answer(caller)[2] == b"alive\n"


def test_a_whole_url_is_understood(door: HttpDoor) -> None:
    with called(door) as caller:
        caller.sendall(b"GET http://x.example/v1/users/1 HTTP/1.1\r\nHost: x.example\r\n\r\n")
        status, _, body = answer(caller)
        assert (status, "quota" in json.loads(body)) == (200, True)


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["nonsense", "http/2", "two lengths", "length and chunks", "negative length", "tls"],
)
def test_what_is_no_request_is_refused_after_what_came_before_it(door: HttpDoor, said: bytes) -> None:
    with called(door) as caller:
        caller.sendall(hold(fresh()) + said)
        assert answer(caller)[0] == 201
        status, headers, body = answer(caller)
        assert (status, headers["connection"], json.loads(body)["code"]) == (400, "close", "invalid_request")
        assert ended(caller)
    counted = b'billing_api_requests_total{method="other",route="other",status="400"}'
    assert counted in door.ask("GET", "/metrics").body


def test_no_other_protocol_is_spoken(door: HttpDoor) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")
    with called(door) as caller:
        caller.sendall("\r\n".join(["GET /v1/users/1 HTTP/1.1", "Host: x", *upgrade, "", ""]).encode())
        assert answer(caller)[0] == 200
        assert ended(caller)
    with called(door) as caller:
        caller.sendall(hold("upgraded", *upgrade))
        status, _, body = answer(caller)
        assert (status, "Upgrade" in json.loads(body)["detail"]) == (400, True)
        assert ended(caller)
    assert "upgraded" not in states(door.engine)


def test_targets_of_other_kinds_are_no_paths_of_ours(door: HttpDoor) -> None:
    for line in ("OPTIONS * HTTP/1.1", "CONNECT x:443 HTTP/1.1", "GET //x/v1/users/1 HTTP/1.1"):
        with called(door) as caller:
            caller.sendall(f"{line}\r\nHost: x\r\n\r\n".encode())
            status, _, body = answer(caller)
            assert (status, json.loads(body)["code"]) == (404, "not_found"), line


def test_a_caller_who_takes_no_answers_is_not_read_any_more(door: HttpDoor) -> None:
    body = b" " * 100_000
    request_ = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with called(door) as caller:
        caller.settimeout(1)
        sent = 0
        try:
            while sent < 600:
                caller.sendall(request_)
                sent += 1
        except TimeoutError:
            # What fits into the kernel's buffers has gone, and the few that wait at the door.
            pass
        assert 0 < sent < 600
        caller.settimeout(20)
        read = [answer(caller)[0] for _ in range(sent)]
        assert read == [200] * sent
    assert door.ask("GET", "/livez").status == 200


def test_trailers_are_no_headers(door: HttpDoor) -> None:
    body = json.dumps({"request_id": fresh(), **ASK}).encode()
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n" % len(body) + body + b"\r\n0\r\n"
    with called(door) as caller:
        caller.sendall(head + chunk + b"Content-Type: text/plain\r\nIdempotency-Key: other\r\n\r\n")
        assert answer(caller)[0] == 201
        caller.sendall(head + chunk)
        caller.sendall((b"X-A: " + b"a" * 1_000 + b"\r\n") * (MAX_DROPPED // 1_000))
        assert answer(caller)[0] == 413


def test_a_body_in_many_small_chunks_keeps_nobody_waiting(door: HttpDoor) -> None:
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    large = b"%x\r\n" % (MAX_BODY * 3 // 4) + b" " * (MAX_BODY * 3 // 4) + b"\r\n"
    with called(door) as caller:
        caller.sendall(head + large + b"1\r\n \r\n" * 100_000)
        began = time.monotonic()
        assert door.ask("GET", "/livez").status == 200
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("target", ["http:///x", "http://h:99999999/x", "x://", "nonsense"])
def test_a_target_that_is_no_path_is_answered_and_so_is_what_follows(door: HttpDoor, target: str) -> None:
    with called(door) as caller:
        caller.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + GET_LIVEZ)
        status = answer(caller)[0]
        assert status in (400, 404)
        if status != 400:
            assert answer(caller)[2] == b"alive\n"


def test_who_asks_twice_and_hangs_up_holds_nothing(door: HttpDoor) -> None:
    ids = [fresh(), fresh()]
    with door.engine.begin() as writer:
        writer.exec_driver_sql("UPDATE users SET quota = quota")
        with called(door) as caller:
            caller.sendall(hold(ids[0]) + hold(ids[1]))
            until(lambda: b"billing_api_in_hand 1.0" in door.ask("GET", "/metrics").body, 0.8, "the first in hand")
    until(lambda: states(door.engine).get(ids[0]) == "expired", 10, "given back")
    assert states(door.engine).get(ids[1]) in (None, "expired")


def test_who_waits_to_be_asked_behind_another_request_is_asked_in_turn(door: HttpDoor) -> None:
    head, _, body = hold(fresh(), "Expect: 100-continue").partition(b"\r\n\r\n")
    with called(door) as caller:
        caller.sendall(hold(fresh()) + head + b"\r\n\r\n")
        assert answer(caller)[0] == 201
        assert caller.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.sendall(body)
        assert answer(caller)[0] == 201


@pytest.mark.parametrize("http_door", ["sqlite"], indirect=True)
def test_the_end_closes_idle_connections_and_finishes_the_others(http_door: HttpDoor) -> None:
    with called(http_door) as idle, called(http_door) as asked:
        for caller in (idle, asked):
            caller.sendall(GET_LIVEZ)
            assert answer(caller)[0] == 200
        http_door.process.popen.send_signal(signal.SIGTERM)
        until(lambda: http_door.ask("GET", "/readyz").status == 503, DRAIN_S, "draining")
        asked.sendall(hold("r1"))
        assert answer(asked)[0] == 201
        assert ended(idle)
        assert ended(asked)
    assert http_door.process.popen.wait(DRAIN_S + FINISH_S) == 0
