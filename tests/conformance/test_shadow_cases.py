"""The contract's cases in shadow: the first call is judged as for real, and no call moves anything (semantics §13)."""

from typing import Any

import pytest
from sqlalchemy import Engine

from relay_billing import Ledger, Policy
from tests.conformance.test_cases import CASES, _check, _do
from tests.fixtures.accounts import Clock, given
from tests.fixtures.shadows import accounts_of

OURS = ("pre_consume", "reserve", "settle", "refund", "expire_holds", "reset_subscriptions")
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
    for number, step in enumerate(case["steps"]):
        clock.at = step.get("at", clock.at)
        before = accounts_of(engine)
        answer = _do(ledger, engine, step)
        if number == 0 and step["do"] in JUDGED:
            _check(step.get("expect"), answer)
        if step["do"] in OURS:
            assert accounts_of(engine) == before
    assert ledger.reconcile() == []
