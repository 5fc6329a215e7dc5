"""Sessions over HTTP: every call of the door, as a relay in any language makes it."""

from urllib.parse import quote

from relay_billing import Ledger, Policy
from relay_billing.flows import holds
from tests.fixtures.accounts import given, states, token, wallet
from tests.fixtures.doors import ASK, WEALTH, HttpDoor

ODD_IDS = ["a/b", "100%", "?x=1", "ü-é-日本", "a:b", ".", "..", "%2F", "+ +", "settle", "x" * 64, '"', "a#b", "\\"]


def test_a_session_lives_its_life(http_door: HttpDoor) -> None:
    held = http_door.hold("r1")
    assert (held.status, held.json["state"], held.json["needs_refund"]) == (201, "preconsumed", True)
    assert held.headers["content-type"] == "application/json"
    again = http_door.hold("r1")
    assert (again.status, again.headers["idempotent-replayed"], again.json) == (200, "true", held.json)
    raised = http_door.ask("POST", "/v1/sessions/r1/reserve", {"target_quota": 250})
    assert (raised.status, raised.json["pre_consumed_quota"]) == (200, 250)
    ended = http_door.ask("POST", "/v1/sessions/r1/settle", {"actual_quota": 180, "reason": "done"})
    assert (ended.status, ended.json) == (202, {"request_id": "r1"})
    shown = http_door.ask("GET", "/v1/sessions/r1").json
    assert (shown["intent"], shown["intent_quota"], shown["intent_reason"]) == ("settle", 180, "done")
    ledger = Ledger(http_door.engine, Policy(trust_quota=0, intent_grace=0))
    ledger.apply_intents()
    assert (states(http_door.engine), wallet(http_door.engine)) == ({"r1": "settled"}, WEALTH - 180)


def test_a_session_has_every_field_of_the_session_that_python_sees(http_door: HttpDoor) -> None:
    shown = http_door.hold("r1").json
    session = Ledger(http_door.engine).read(holds.get, "r1")
    expected = {name: getattr(value, "value", value) for name, value in session.values().items()}
    assert shown == {**expected, "needs_refund": True}


def test_a_refund_needs_no_body(http_door: HttpDoor) -> None:
    http_door.hold("r1")
    assert http_door.ask("POST", "/v1/sessions/r1/refund").status == 202
    assert http_door.ask("POST", "/v1/sessions/r1/refund", {"reason": "client_gone"}).status == 202
    Ledger(http_door.engine, Policy(intent_grace=0)).apply_intents()
    assert wallet(http_door.engine) == WEALTH


def test_ends_of_unknown_sessions_are_the_workers_to_judge(http_door: HttpDoor) -> None:
    assert http_door.ask("POST", "/v1/sessions/nobody/settle", {"actual_quota": 1}).status == 202
    assert http_door.ask("POST", "/v1/sessions/nobody/refund").status == 202
    for method, path, body in (
        ("GET", "/v1/sessions/nobody", None),
        ("POST", "/v1/sessions/nobody/reserve", {"target_quota": 1}),
    ):
        missing = http_door.ask(method, path, body)
        assert (missing.status, missing.json["code"], missing.json["request_id"]) == (404, "unknown_session", "nobody")
        assert missing.headers["content-type"] == "application/problem+json"


def test_any_valid_id_works_in_a_path(http_door: HttpDoor) -> None:
    for odd in ODD_IDS:
        path = f"/v1/sessions/{quote(odd, safe='').replace('.', '%2E')}"
        assert http_door.hold(odd).status == 201, odd
        assert http_door.ask("POST", f"{path}/reserve", {"target_quota": 101}).json["request_id"] == odd
        assert http_door.ask("POST", f"{path}/settle", {"actual_quota": 1}).json == {"request_id": odd}
        assert http_door.ask("GET", path).json["request_id"] == odd
    assert set(states(http_door.engine)) == set(ODD_IDS)


def test_the_request_id_may_come_in_the_header(http_door: HttpDoor) -> None:
    named = http_door.ask("POST", "/v1/sessions", ASK, headers={"Idempotency-Key": "r1"})
    assert (named.status, named.json["request_id"]) == (201, "r1")
    both = {"request_id": "r1", **ASK}
    assert http_door.ask("POST", "/v1/sessions", both, headers={"Idempotency-Key": "r1"}).status == 200
    other = http_door.ask("POST", "/v1/sessions", both, headers={"Idempotency-Key": "r2"})
    assert (other.status, other.json["field"], other.json["code"]) == (400, "request_id", "invalid_request")
    assert http_door.ask("POST", "/v1/sessions", ASK).json["detail"] == "request_id: is missing"


def test_refusals_say_what_is_there_and_what_is_needed(http_door: HttpDoor) -> None:
    given(http_door.engine, user=[{"id": 2, "quota": 5}], token=[{"id": 2, "user_id": 2, "remain_quota": 5}])
    poor = http_door.hold("r1", user_id=2, token_id=2, preference="wallet_only")
    assert poor.status == 403
    kept = ("code", "remaining", "needed", "skip_retry", "request_id", "status")
    assert [poor.json[name] for name in kept] == ["insufficient_user_quota", 5, 100, True, "r1", 403]
    short = http_door.hold("r2", user_id=1, token_id=2)
    assert (short.status, short.json["code"]) == (403, "pre_consume_token_quota_failed")
    assert http_door.hold("r3", user_id=9, preference="wallet_only").json["code"] == "query_data_error"
    http_door.hold("r4")
    conflict = http_door.hold("r4", quota=101)
    assert (conflict.status, conflict.json["code"], conflict.json["field"]) == (409, "idempotency_conflict", "quota")


def test_a_dry_run_answers_as_a_hold_and_moves_nothing(http_door: HttpDoor) -> None:
    body = {"request_id": "r1", **ASK}
    dry = http_door.ask("POST", "/v1/sessions?dry_run=true", body)
    assert (dry.status, dry.json["pre_consumed_quota"], dry.json["user_quota"]) == (200, 100, WEALTH)
    assert "idempotent-replayed" not in dry.headers
    poor = http_door.ask("POST", "/v1/sessions?dry_run=true", {**body, "quota": WEALTH + 1})
    assert (poor.status, poor.json["needed"]) == (403, WEALTH + 1)
    assert (states(http_door.engine), wallet(http_door.engine), token(http_door.engine)) == ({}, WEALTH, WEALTH)
    for query in ("dry_run=1", "dry_run=", "dry_run=TRUE", "dry=true", "dry_run=true&x=1"):
        wrong = http_door.ask("POST", f"/v1/sessions?{query}", body)
        assert (wrong.status, wrong.json["field"]) == (400, "dry_run"), query
    assert http_door.ask("POST", "/v1/sessions?dry_run=false", body).status == 201


def test_balances_and_open_holds_are_shown(http_door: HttpDoor) -> None:
    now = 1_800_000_000
    bought = {"id": 5, "user_id": 1, "amount_total": 50, "amount_used": 7, "start_time": now, "end_time": now + 1}
    given(http_door.engine, plan=[{"id": 3, "title": "Pro"}], subscription=[{**bought, "plan_id": 3}])
    http_door.hold("r1", preference="wallet_only")
    user = http_door.ask("GET", "/v1/users/1").json
    (subscription,) = user.pop("subscriptions")
    assert user == {
        "user_id": 1,
        "quota": WEALTH - 100,
        "used_quota": 0,
        "request_count": 0,
        "open_holds": {"count": 1, "quota": 100},
    }
    assert (subscription["id"], subscription["plan_title"], subscription["amount_used"]) == (5, "Pro", 7)
    assert http_door.ask("GET", "/v1/tokens/1").json == {
        "token_id": 1,
        "user_id": 1,
        "remain_quota": WEALTH - 100,
        "used_quota": 100,
        "unlimited_quota": False,
        "open_holds": {"count": 1, "quota": 100},
    }
    for path in ("/v1/users/2", "/v1/tokens/2"):
        missing = http_door.ask("GET", path)
        assert (missing.status, missing.json["code"]) == (404, "not_found")


def test_an_id_of_an_account_is_a_number(http_door: HttpDoor) -> None:
    for wrong in ("0", "-1", "1.0", "x", "9223372036854775808", "1" * 5000, "%20", "%C2%B2", "1_0"):
        for noun, field in (("users", "user_id"), ("tokens", "token_id")):
            got = http_door.ask("GET", f"/v1/{noun}/{wrong}")
            assert (got.status, got.json["field"]) == (400, field), wrong


def test_a_batch_answers_each_item_by_itself(http_door: HttpDoor) -> None:
    items = [{"request_id": f"b{number}", **ASK} for number in range(500)]
    items[3] = {"request_id": "b3", **ASK, "quota": 1.5}
    items[4] = {"request_id": "b5", **ASK}
    items[7] = {"request_id": "b7", **ASK, "quota": 2 * WEALTH, "preference": "wallet_only"}
    got = http_door.ask("POST", "/v1/sessions:batch", items)
    assert (got.status, len(got.json)) == (200, 500)
    problems = {at: (each["code"], each.get("field")) for at, each in enumerate(got.json) if "code" in each}
    assert problems == {3: ("invalid_request", "quota"), 7: ("insufficient_user_quota", None)}
    assert [each["request_id"] for at, each in enumerate(got.json) if at not in problems][:5] == [
        "b0",
        "b1",
        "b2",
        "b5",
        "b5",
    ]
    assert wallet(http_door.engine) == WEALTH - 100 * 497
    ends = [{"request_id": f"b{number}", "actual_quota": 1} for number in range(250)]
    ends += [{"request_id": f"b{number}", "reason": "gone"} for number in range(250, 498)]
    ends += [{"request_id": "b0", "actual_quota": None}, {"actual_quota": 1}]
    ended = http_door.ask("POST", "/v1/ends:batch", ends)
    assert ended.status == 200
    assert [each.get("field") for each in ended.json[-2:]] == ["actual_quota", "request_id"]
    assert ended.json[:498] == [{"request_id": f"b{number}"} for number in range(498)]


def test_what_is_no_batch_is_refused_as_a_whole(http_door: HttpDoor) -> None:
    too_many = b"[" + b",".join([b"{}"] * 501) + b"]"
    for path in ("/v1/sessions:batch", "/v1/ends:batch"):
        for wrong in (b"{}", b"[]", b"1", b"null", too_many, b"[1", b""):
            got = http_door.ask("POST", path, wrong)
            assert (got.status, got.json["code"], got.json["field"]) == (400, "invalid_request", "body"), wrong[:9]
