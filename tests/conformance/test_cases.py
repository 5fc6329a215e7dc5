"""The contract as cases, on every database."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import pytest
from sqlalchemy import ColumnElement, Engine, Integer, Table, delete, literal_column, select, update

from relay_billing import BillingError, BillingSession, Ledger, Outcome, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain.checks import MAX_REQUEST_ID
from relay_billing.domain.ownership import Accounts
from relay_billing.schema import tokens, user_subscriptions, users
from relay_billing.store.drivers import engine_of
from tests.fixtures.accounts import Clock, given, states
from tests.fixtures.databases import empty
from tests.fixtures.names import nasty
from tests.fixtures.new_api import NEW_API, new_api, new_api_rows

TABLES = {"users": users, "tokens": tokens, "subscriptions": user_subscriptions}
DELETED = datetime(2026, 1, 1, tzinfo=UTC)


class Step(TypedDict, total=False):
    """One call and what it must answer."""

    do: str
    args: dict[str, object]
    expect: object
    at: int


Case = dict[str, object]


def _cases(names: Callable[[str], bool]) -> list[Case]:
    files = sorted((Path(__file__).parent / "cases").glob("*.json"))
    return [case for file in files if names(file.stem) for case in json.loads(file.read_text())]


CASES = _cases(lambda name: name != "new_api")
RELAYS_OWN = _cases(lambda name: name == "new_api")
"""Cases that only a relay's tables can have: what they hold goes beyond our own (semantics §12)."""


def test_there_are_eighty_cases_and_more_beside_a_relay() -> None:
    assert len(CASES) == 80
    assert len(RELAYS_OWN) == 77


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


@pytest.fixture
def relays_postgresql(request: pytest.FixtureRequest) -> str:
    """PostgreSQL without tables."""
    return empty("postgresql", request)


@pytest.mark.parametrize("case", [*CASES, *RELAYS_OWN], ids=lambda case: str(case["name"]))
def test_a_case_ends_the_same_in_a_relays_own_tables(case: dict[str, dict[str, object]], empty_url: str) -> None:
    _play_beside(case, empty_url, fast_paths=True)


@pytest.mark.parametrize("case", RELAYS_OWN, ids=lambda case: str(case["name"]))
def test_a_case_ends_the_same_in_a_relays_own_tables_without_the_fast_paths(
    case: dict[str, dict[str, object]], relays_postgresql: str
) -> None:
    _play_beside(case, relays_postgresql, fast_paths=False)


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
    given(engine, **_given(case))
    clock = Clock()
    _steps(case, engine, Ledger(engine, Policy(**case["policy"]), clock, fast_paths=fast_paths), clock)  # type: ignore[arg-type]


def _play_beside(case: dict[str, dict[str, object]], url: str, *, fast_paths: bool) -> None:
    """As `_play`, in the tables that new-api's ORM makes."""
    engine = engine_of(url)
    narrow: list[str] = case.get("narrow", [])  # type: ignore[assignment]
    new_api(engine, narrow={name: Integer() for name in narrow})
    new_api_rows(engine, **_given(case))
    clock = Clock()
    # The cases say what is counted; left unset, nothing is.
    counted = {} if case in RELAYS_OWN else {"record_usage": True}
    policy = Policy(**{**counted, **case["policy"], "accounts": Accounts.NEW_API})  # type: ignore[arg-type]
    ledger = Ledger(engine, policy, clock, fast_paths=fast_paths)
    # The first transaction looks at the tables, by the general path: let it be none of the case's own.
    ledger.overview()
    try:
        _steps(case, engine, ledger, clock)
    finally:
        engine.dispose()


def _given(case: dict[str, dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    rows: dict[str, list[dict[str, object]]] = case["given"]  # type: ignore[assignment]
    return {name.removesuffix("s"): [_row(each) for each in found] for name, found in rows.items()}


def _row(values: dict[str, object]) -> dict[str, object]:
    """Values as the database takes them: JSON has no times."""
    return {**values, "deleted_at": DELETED} if values.get("deleted_at") else values


def _steps(case: dict[str, dict[str, object]], engine: Engine, ledger: Ledger, clock: Clock) -> None:
    steps: list[Step] = case["steps"]  # type: ignore[assignment]
    for step in steps:
        clock.at = step.get("at", clock.at)
        answer = _do(ledger, engine, step)
        _check(step.get("expect"), answer)
    then = case["then"]
    for name, table in TABLES.items():
        if name in then:
            _check_rows(engine, table, then[name])  # type: ignore[arg-type]
    assert states(engine) == then["sessions"]
    findings = list(ledger.findings())
    assert [each for each in findings if not each.outside] == ledger.reconcile() == []
    assert {f"{each.what} {each.id}": each.difference for each in findings} == then.get("outside", {})


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
            case "apply":
                jobs = [SettleJob(**each) if "actual_quota" in each else RefundJob(**each) for each in args["jobs"]]  # type: ignore[attr-defined]
                return ledger.apply(jobs)
            case "pre_consume_many":
                return ledger.pre_consume_many([PreConsume(**each) for each in args["requests"]])  # type: ignore[attr-defined]
            case "write":
                _write(engine, args)
                return None
            case "top_up":
                return ledger.top_up(**args)  # type: ignore[arg-type]
            case "adopt":
                return ledger.adopt(list(ledger.findings()))
            case "delete_token":
                with engine.begin() as connection:
                    return connection.execute(delete(tokens).where(tokens.c.id == args["id"])).rowcount
    except BillingError as error:
        return error
    raise AssertionError(f"unknown step {step}")


def _write(engine: Engine, args: dict[str, object]) -> None:
    """What the relay itself does: `set` values of the row `id` of a `table`, or `add` to them."""
    table = NEW_API.tables[str(args["table"])]
    added: dict[str, int] = args.get("add", {})  # type: ignore[assignment]
    values = _row(args.get("set", {}))  # type: ignore[arg-type]
    values |= {name: table.c[name] + more for name, more in added.items()}
    with engine.begin() as connection:
        connection.execute(update(table).where(table.c.id == args["id"]).values(values))


def _check(expected: object, answer: object) -> None:
    if isinstance(expected, list):
        assert isinstance(answer, list)
        for one, found in zip(expected, answer, strict=True):
            _check(one, found)
        return
    if isinstance(expected, dict) and "error" in expected:
        assert isinstance(answer, BillingError), answer
        assert answer.code == expected["error"]
        assert str(expected.get("says", "")) in str(answer)
        return
    assert not isinstance(answer, BillingError), answer
    if isinstance(expected, dict):
        assert isinstance(answer, BillingSession)
        assert {name: getattr(answer, name) for name in expected} == expected
    elif isinstance(expected, int):
        assert answer == expected
    elif expected is not None:
        assert answer is Outcome(str(expected))


def _check_rows(engine: Engine, table: Table, rows: dict[str, dict[str, int]]) -> None:
    with engine.connect() as connection:
        for of, expected in rows.items():
            columns: list[ColumnElement[object]] = [literal_column(name) for name in expected]
            row = connection.execute(select(*columns).select_from(table).where(table.c.id == int(of))).mappings().one()
            assert dict(row) == expected
