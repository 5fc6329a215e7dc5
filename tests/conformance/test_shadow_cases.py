"""The contract's cases in shadow: the first call is judged as for real, and no call moves anything (semantics §13)."""

from typing import Any

import pytest
from sqlalchemy import Engine, Integer, text

from relay_billing import Ledger, Policy
from relay_billing.domain.ownership import Accounts
from relay_billing.schema import ACCOUNT_TABLES
from relay_billing.store.drivers import engine_of
from tests.conformance.test_cases import CASES, RELAYS_OWN, _check, _do, _given
from tests.fixtures.accounts import Clock, given
from tests.fixtures.new_api import new_api, new_api_rows

OURS = (
    "pre_consume",
    "pre_consume_many",
    "reserve",
    "settle",
    "refund",
    "apply",
    "expire_holds",
    "reset_subscriptions",
    "adopt",
)
"""Steps that call the ledger; others are changes from outside."""
JUDGED = ("pre_consume", "reserve", "settle", "refund")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_a_case_in_shadow_moves_nothing(case: dict[str, Any], engine: Engine) -> None:
    rows = case["given"]
    given(
        engine,
        user=rows.get("users", []),
        token=rows.get("tokens", []),
        plan=rows.get("plans", []),
        subscription=rows.get("subscriptions", []),
    )
    clock = Clock()
    ledger = Ledger(engine, Policy(**{**case["policy"], "shadow": True}), clock)
    _steps_move_nothing(case, engine, ledger, clock)


@pytest.mark.parametrize("case", RELAYS_OWN, ids=lambda case: str(case["name"]))
def test_a_case_in_shadow_moves_nothing_in_a_relays_own_tables(case: dict[str, Any], empty_url: str) -> None:
    engine = engine_of(empty_url)
    new_api(engine, narrow={name: Integer() for name in case.get("narrow", [])})
    new_api_rows(engine, **_given(case))
    clock = Clock()
    ledger = Ledger(engine, Policy(**{**case["policy"], "accounts": Accounts.NEW_API, "shadow": True}), clock)
    try:
        _steps_move_nothing(case, engine, ledger, clock)
    finally:
        engine.dispose()


def _steps_move_nothing(case: dict[str, Any], engine: Engine, ledger: Ledger, clock: Clock) -> None:
    for number, step in enumerate(case["steps"]):
        clock.at = step.get("at", clock.at)
        before = _accounts(engine)
        answer = _do(ledger, engine, step)
        if number == 0 and step["do"] in JUDGED:
            _check(step.get("expect"), answer)
        if step["do"] in OURS:
            assert _accounts(engine) == before
    assert list(ledger.findings()) == ledger.reconcile() == []


def _accounts(engine: Engine) -> dict[str, list[str]]:
    """All that the account tables hold, columns of a relay's own too."""
    with engine.connect() as connection:
        return {name: sorted(map(str, connection.execute(text(f"SELECT * FROM {name}")))) for name in ACCOUNT_TABLES}
