"""A relay's clients in shadow: the same calls and errors, counted as such, and nothing moves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, func, select

from relay_billing import AsyncBillingClient, BillingClient, InsufficientUserQuota, Ledger
from relay_billing.schema import billing_shadow_refusals
from tests.fixtures.accounts import states
from tests.fixtures.shadows import REAL, SHADOW, WEALTH, accounts_of

ASK: dict[str, Any] = {"user_id": 1, "token_id": 1, "quota": 100, "preference": "wallet_only"}


def _applied(engine: Engine) -> None:
    """As a worker's sweep does it, and it need not know that they are shadows."""
    assert Ledger(engine, REAL).apply_intents() == 2
    assert states(engine) == {"s1": "settled", "s2": "refunded"}
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(billing_shadow_refusals)).scalar_one() == 1


def test_a_client_in_shadow(peopled: Engine, empty_url: str, tmp_path: Path) -> None:
    before, registry = accounts_of(peopled), CollectorRegistry()
    client = BillingClient(empty_url, f"filesystem://{tmp_path / 'broker'}", SHADOW, metrics=registry)
    session = client.pre_consume(request_id="s1", **ASK)
    assert (session.shadow, session.pre_consumed_quota) == (True, 100)
    assert client.reserve("s1", 150).pre_consumed_quota == 150
    session.settle(70)
    client.pre_consume(request_id="s2", **ASK).refund("upstream_error")
    with pytest.raises(InsufficientUserQuota):
        client.pre_consume(request_id="s3", **{**ASK, "quota": WEALTH + 1})
    client.close()
    assert registry.get_sample_value("billing_client_held_quota_total") == 0
    _applied(peopled)
    assert accounts_of(peopled) == before


def test_an_asynchronous_client_in_shadow(peopled: Engine, empty_url: str, tmp_path: Path) -> None:
    before = accounts_of(peopled)

    async def life() -> None:
        client = AsyncBillingClient(empty_url, f"filesystem://{tmp_path / 'broker'}", SHADOW)
        held = [client.pre_consume(request_id=each, **ASK) for each in ("s1", "s2")]
        first, second = await asyncio.gather(*held)
        assert first.shadow
        assert second.shadow
        await first.settle(70)
        await second.refund()
        with pytest.raises(InsufficientUserQuota):
            await client.pre_consume(request_id="s3", **{**ASK, "quota": WEALTH + 1})
        await client.close()

    asyncio.run(life())
    _applied(peopled)
    assert accounts_of(peopled) == before
