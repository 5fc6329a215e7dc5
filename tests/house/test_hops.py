"""How far it is from a call to the decision: frames of the product's own on the way."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import relay_billing.domain.fast_hold
import relay_billing.domain.fast_settle
import relay_billing.domain.holds
import relay_billing.domain.settlements
import relay_billing.flows.holds
import relay_billing.flows.settlements
from relay_billing import BillingClient, Policy, SettleJob
from tasks.base import LedgerTask, OpenLedger
from tasks.settle import settle
from tests.fixtures.accounts import given, states

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / name) for name in ("relay_billing", "tasks", "worker"))
HOPS_OF_A_HOLD, HOPS_OF_A_SETTLE = 8, 9


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Frames of the way to each decision, the decision included, by its name."""
    found: dict[str, list[str]] = {}

    def watched(module: Any, name: str, decision: Callable[..., Any]) -> None:  # noqa: ANN401
        def decide(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            frames = [each for each in traceback.extract_stack() if each.filename.startswith(OURS)]
            found[name] = [f"{Path(each.filename).stem}.{each.name}" for each in frames] + [name]
            return decision(*args, **options)

        monkeypatch.setattr(module, name, decide)

    watched(relay_billing.flows.holds, "assume", relay_billing.domain.fast_hold.assume)
    watched(relay_billing.domain.holds, "pre_consume", relay_billing.domain.holds.pre_consume)
    watched(relay_billing.domain.settlements, "apply", relay_billing.domain.settlements.apply)
    watched(relay_billing.flows.settlements, "plain", relay_billing.domain.fast_settle.plain)
    return found


def rich(engine: Engine) -> None:
    given(engine, user=[{"id": 1, "quota": 1_000}], token=[{"id": 1, "user_id": 1, "remain_quota": 1_000}])


@pytest.mark.parametrize("empty_url", ["sqlite", "postgresql"], indirect=True)
def test_a_hold_is_decided_in_few_hops(
    engine: Engine, empty_url: str, tmp_path: Path, hops: dict[str, list[str]]
) -> None:
    rich(engine)
    client = BillingClient(empty_url, f"filesystem://{tmp_path}/broker", Policy(trust_quota=0))
    client.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
    client.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
    client.close()
    assert hops
    for way in hops.values():
        assert len(way) <= HOPS_OF_A_HOLD, way


def test_a_settle_is_decided_in_few_hops_in_the_worker(
    engine: Engine, empty_url: str, monkeypatch: pytest.MonkeyPatch, hops: dict[str, list[str]]
) -> None:
    rich(engine)
    monkeypatch.setenv("BILLING_DATABASE_URL", empty_url)
    monkeypatch.setattr(LedgerTask, "opened", OpenLedger())
    LedgerTask.opened.open()[0].pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
    settle.run(jobs=[SettleJob("r1", 60).wire()])
    LedgerTask.opened.open()[0]._engine.dispose()
    assert states(engine) == {"r1": "settled"}
    for name in ("apply", "plain"):
        way = hops.get(name, [])
        assert len(way) <= HOPS_OF_A_SETTLE, way
    assert "apply" in hops or "plain" in hops
