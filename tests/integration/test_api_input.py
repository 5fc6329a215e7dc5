"""What a caller may send: anything else gets a clear problem that names the field, and moves nothing."""

import json
import socket

from tests.fixtures.accounts import states, wallet
from tests.fixtures.doors import ASK, WEALTH, HttpDoor

BODY = {"request_id": "r1", **ASK}
MIB = 2**20


def _with(**more: object) -> bytes:
    return json.dumps({**BODY, **more}).encode()


WRONG_BODIES: list[tuple[bytes, str]] = [
    (_with(quota=1.5), "quota"),
    (_with(quota=1.0), "quota"),
    (b'{"request_id":"r1","user_id":1,"token_id":1,"quota":1e2}', "quota"),
    (_with(quota=True), "quota"),
    (_with(quota="100"), "quota"),
    (_with(quota=None), "quota"),
    (_with(quota=-1), "quota"),
    (_with(quota=2**53 + 1), "quota"),
    (_with(quota=10**40), "quota"),
    (_with(quota=float("nan")), "body"),
    (_with(quota=float("inf")), "body"),
    (_with(user_id=0), "user_id"),
    (_with(user_id=2**63), "user_id"),
    (_with(token_id=None), "token_id"),
    (_with(playground=1), "playground"),
    (_with(preference=1), "preference"),
    (_with(hold_ttl=0), "hold_ttl"),
    (_with(model_name="x" * 256), "model_name"),
    (_with(request_id=""), "request_id"),
    (_with(request_id="x" * 65), "request_id"),
    (_with(request_id="a\x00b"), "request_id"),
    (_with(colour="red"), "colour"),
    (_with(colour={"deep": [1]}), "colour"),
    (b'{"user_id":1,"token_id":1,"quota":1}', "request_id"),
    (b'{"request_id":"r1","token_id":1,"quota":1}', "user_id"),
    (b'{"request_id":"r1","user_id":1,"token_id":1,"quota":1,"quota":2}', "quota"),
    (b'{"request_id":"r1","user_id":1,"token_id":1,"quota" :1,"qu\\u006fta" : 2}', "quota"),
    (b'{"colour":' + b"1" * 5_000 + b"}", "colour"),
    (b"[]", "body"),
    (b"", "body"),
    (b"{", "body"),
    (b'{"request_id":"r1"} x', "body"),
    (b"\xef\xbb\xbf" + _with(), "body"),
    (b'{"request_id":"\xff"}', "body"),
    (b'{"request_id":"\\ud800","user_id":1,"token_id":1,"quota":1}', "body"),
    (b'{"x":' + b"[" * 100_000, "body"),
    (_with().decode().encode("utf-16"), "body"),
]


def test_what_can_not_be_used_is_named(http_door: HttpDoor) -> None:
    for body, field in WRONG_BODIES:
        got = http_door.ask("POST", "/v1/sessions", body)
        assert (got.status, got.json["code"], got.json["field"]) == (400, "invalid_request", field), (body[:80], got)
        assert got.headers["content-type"] == "application/problem+json"
        assert got.json["skip_retry"] is True
    assert (states(http_door.engine), wallet(http_door.engine)) == ({}, WEALTH)
    # What only looks odd is taken: text with colons, blanks, its fields in another order.
    odd = b' {"quota" : 7,\n"token_id":1, "user_id":1, "model_name":"a:b::c", "request_id":"\\u0041:1"} '
    assert http_door.ask("POST", "/v1/sessions", odd).json["request_id"] == "A:1"


def test_ends_and_reserves_are_as_strict(http_door: HttpDoor) -> None:
    http_door.hold("r1")
    for verb, body, field in (
        ("settle", {}, "actual_quota"),
        ("settle", {"actual_quota": 1.0}, "actual_quota"),
        ("settle", {"actual_quota": 1, "reason": "x" * 65}, "reason"),
        ("settle", {"actual_quota": 1, "quota": 1}, "quota"),
        ("refund", {"reason": 1}, "reason"),
        ("refund", {"actual_quota": 1}, "actual_quota"),
        ("reserve", {"target_quota": -1}, "target_quota"),
        ("reserve", {}, "target_quota"),
    ):
        got = http_door.ask("POST", f"/v1/sessions/r1/{verb}", body)
        assert (got.status, got.json["field"], got.json["request_id"]) == (400, field, "r1"), (verb, body)
    for path in ("/v1/sessions/%ff", "/v1/sessions/%zz", "/v1/sessions/a%00b", "/v1/sessions/" + "x" * 65):
        got = http_door.ask("GET", path)
        assert (got.status, got.json["field"]) == (400, "request_id"), path


def test_a_body_is_json_and_says_so(http_door: HttpDoor) -> None:
    body = json.dumps(BODY).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "", "json"):
        got = http_door.ask("POST", "/v1/sessions", body, headers={"Content-Type": kind})
        assert (got.status, got.json["code"]) == (415, "unsupported_media_type"), kind
    for kind in ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'):
        assert http_door.ask("POST", "/v1/sessions", body, headers={"Content-Type": kind}).status in (200, 201)


def test_a_large_body_is_cut_while_it_comes(http_door: HttpDoor) -> None:
    for large in (b" " * (MIB + 1), b"[" + b" " * (2 * MIB)):
        got = http_door.ask("POST", "/v1/sessions", large)
        assert (got.status, got.json["code"], got.headers["connection"]) == (413, "body_too_large", "close")
    assert http_door.ask("POST", "/v1/sessions", b" " * (MIB - 200) + json.dumps(BODY).encode()).status == 201
    # Chunked: nobody says how long it is, so it is counted. It would go on for ever.
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", http_door.port), timeout=20) as caller:
        caller.sendall(head)
        sent = 0
        try:
            while sent < 64 * MIB:
                caller.sendall(chunk)
                sent += len(chunk)
        except OSError:
            # The door has closed the connection.
            pass
        assert sent < 32 * MIB


def test_other_paths_and_methods_are_refused(http_door: HttpDoor) -> None:
    for path in (
        "/",
        "/v1",
        "/v1/sessions/",
        "/v1/sessions//settle",
        "/v1/sessions/a/b",
        "/v1/sessions/a/settle/",
        "/x",
    ):
        got = http_door.ask("GET", path)
        assert (got.status, got.json["code"]) == (404, "not_found"), path
    for method, path, allow in (
        ("GET", "/v1/sessions", "POST"),
        ("DELETE", "/v1/sessions/r1", "GET, HEAD"),
        ("OPTIONS", "/v1/sessions/r1/settle", "POST"),
        ("POST", "/livez", "GET, HEAD"),
    ):
        got = http_door.ask(method, path)
        assert (got.status, got.json["code"], got.headers["allow"]) == (405, "method_not_allowed", allow)
    nonsense = http_door.ask("BREW", "/v1/users/1")
    assert (nonsense.status, nonsense.json["code"]) == (400, "invalid_request")
    head = http_door.ask("HEAD", "/livez")
    assert (head.status, head.headers["content-length"], head.body) == (200, "6", b"")
