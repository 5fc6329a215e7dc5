"""The contract as cases, on every database."""

import json
from pathlib import Path
from typing import TypedDict

import pytest
from sqlalchemy import Engine, Table, delete, select

from relay_billing import BillingError, BillingSession, Ledger, Outcome, Policy, RefundJob, SettleJob
from relay_billing.domain.checks import MAX_REQUEST_ID
from relay_billing.schema import tokens, user_subscriptions, users
from tests.fixtures.accounts import Clock, given, states
from tests.fixtures.names import nasty


class Step(TypedDict, total=False):
    """One call and what it must answer."""

    do: str
    args: dict[str, object]
    expect: object
    at: int


Case = dict[str, object]

CASES: list[Case] = [
    case for file in sorted((Path(__file__).parent / "cases").glob("*.json")) for case in json.loads(file.read_text())
]


def test_there_are_eighty_cases() -> None:
    assert len(CASES) == 80


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_a_case_ends_with_the_balances_it_says(case: dict[str, dict[str, object]], engine: Engine) -> None:
    _play(case, engine, fast_paths=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_a_case_ends_the_same_without_the_fast_paths(case: dict[str, dict[str, object]], postgresql: Engine) -> None:
    _play(case, postgresql, fast_paths=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_a_case_ends_the_same_whatever_its_requests_are_called(
    case: dict[str, dict[str, object]], engine: Engine
) -> None:
    _play(_renamed(case), engine, fast_paths=True)


def _renamed(case: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """The case with other request ids; those that are refused stay."""
    steps: list[Step] = case["steps"]  # type: ignore[assignment]
    given_ids = [str(step["args"].get("request_id", "")) for step in steps]
    names = nasty([each for each in dict.fromkeys(given_ids) if 1 <= len(each) <= MAX_REQUEST_ID])

    def renamed(args: dict[str, object]) -> dict[str, object]:
        of = args.get("request_id")
        return {**args, "request_id": names.get(of, of)} if isinstance(of, str) else args

    sessions: dict[str, str] = case["then"]["sessions"]  # type: ignore[assignment]
    then = {**case["then"], "sessions": {names[of]: state for of, state in sessions.items()}}
    others = [{**step, "args": renamed(step["args"])} for step in steps]
    return {**case, "steps": others, "then": then}  # type: ignore[dict-item]


def _play(case: dict[str, dict[str, object]], engine: Engine, *, fast_paths: bool) -> None:
    rows = case["given"]
    given(
        engine,
        user=rows.get("users", []),  # type: ignore[arg-type]
        token=rows.get("tokens", []),  # type: ignore[arg-type]
        plan=rows.get("plans", []),  # type: ignore[arg-type]
        subscription=rows.get("subscriptions", []),  # type: ignore[arg-type]
    )
    clock = Clock()
    ledger = Ledger(engine, Policy(**case["policy"]), clock, fast_paths=fast_paths)  # type: ignore[arg-type]
    steps: list[Step] = case["steps"]  # type: ignore[assignment]
    for step in steps:
        clock.at = step.get("at", clock.at)
        answer = _do(ledger, engine, step)
        _check(step.get("expect"), answer)
    then = case["then"]
    for name, table in (("users", users), ("tokens", tokens), ("subscriptions", user_subscriptions)):
        _check_rows(engine, table, then[name])  # type: ignore[arg-type]
    assert states(engine) == then["sessions"]
    assert ledger.reconcile() == []


def _do(ledger: Ledger, engine: Engine, step: Step) -> object:
    args = step["args"]
    try:
        match step["do"]:
            case "pre_consume":
                return ledger.pre_consume(**args)  # type: ignore[arg-type]
            case "reserve":
                return ledger.reserve(**args)  # type: ignore[arg-type]
            case "settle":
                return ledger.apply([SettleJob(**args)])[0]  # type: ignore[arg-type]
            case "refund":
                return ledger.apply([RefundJob(**args)])[0]  # type: ignore[arg-type]
            case "expire_holds":
                return ledger.expire_holds()
            case "reset_subscriptions":
                return ledger.reset_subscriptions()
            case "delete_token":
                with engine.begin() as connection:
                    return connection.execute(delete(tokens).where(tokens.c.id == args["id"])).rowcount
    except BillingError as error:
        return error
    raise AssertionError(f"unknown step {step}")


def _check(expected: object, answer: object) -> None:
    if isinstance(expected, dict) and "error" in expected:
        assert isinstance(answer, BillingError), answer
        assert answer.code == expected["error"]
        return
    assert not isinstance(answer, BillingError), answer
    if isinstance(expected, dict):
        assert isinstance(answer, BillingSession)
        assert {name: getattr(answer, name) for name in expected} == expected
    elif expected is not None:
        assert answer is Outcome(str(expected))


def _check_rows(engine: Engine, table: Table, rows: dict[str, dict[str, int]]) -> None:
    with engine.connect() as connection:
        for of, expected in rows.items():
            row = connection.execute(select(table).where(table.c.id == int(of))).mappings().one()
            assert {name: row[name] for name in expected} == expected
