"""A dry run answers as the hold would, and moves, writes and locks nothing; a replay is known to be one."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from relay_billing import AsyncBillingClient, BillingClient, BillingError, BillingSession, Policy
from tests.fixtures.accounts import given, states, token, wallet

WEALTH = 1_000
ASK: dict[str, Any] = {"user_id": 1, "token_id": 1, "model_name": "m"}
TRIED = [
    {"quota": 100},
    {"quota": 100, "preference": "wallet_only"},
    {"quota": 0},
    {"quota": WEALTH + 1},
    {"quota": WEALTH + 1, "preference": "subscription_only"},
    {"quota": 30, "preference": "subscription_first"},
    {"quota": 1, "user_id": 2},
    {"quota": 1, "token_id": 2},
    {"quota": 1, "hold_ttl": 5},
]
CLOCKED = ("created_at", "expires_at")


def outcome(call: Callable[[], BillingSession]) -> object:
    """A session without its times, or the error's words."""
    try:
        session = call()
    except BillingError as error:
        return type(error), str(error)
    return {name: value for name, value in session.values().items() if name not in CLOCKED}


@pytest.fixture
def client(engine: Engine, empty_url: str, tmp_path: Path) -> BillingClient:
    given(
        engine,
        user=[{"id": 1, "quota": WEALTH}],
        token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}],
        subscription=[{"id": 1, "user_id": 1, "amount_total": 50, "end_time": 2_000_000_000}],
    )
    return BillingClient(empty_url, f"filesystem://{tmp_path / 'broker'}", Policy(trust_quota=0))


@pytest.mark.parametrize("more", TRIED, ids=str)
def test_a_dry_run_is_answered_as_the_hold_after_it(
    client: BillingClient, engine: Engine, more: dict[str, object]
) -> None:
    fields: dict[str, Any] = {"request_id": "r1", **ASK, **more}
    dry = outcome(lambda: client.would_hold(**fields))
    assert (states(engine), wallet(engine), token(engine)) == ({}, WEALTH, WEALTH)
    assert outcome(lambda: client.pre_consume(**fields)) == dry
    client.close()


def test_a_dry_run_waits_for_no_lock(client: BillingClient, engine: Engine) -> None:
    lock = (
        "SELECT id FROM users FOR UPDATE" if engine.dialect.name == "postgresql" else "UPDATE users SET quota = quota"
    )
    client.would_hold(request_id="r0", quota=1, **ASK)
    with engine.begin() as connection:
        connection.execute(text(lock))
        assert client.would_hold(request_id="r1", quota=1, **ASK).pre_consumed_quota == 1
    client.close()


def test_of_many_calls_with_one_id_all_but_one_are_known_as_replays(
    client: BillingClient, empty_url: str, tmp_path: Path
) -> None:
    client.close()

    async def both() -> list[bool]:
        relay = AsyncBillingClient(empty_url, f"filesystem://{tmp_path / 'broker'}", Policy(trust_quota=0))
        fields: Any = {"request_id": "r1", "quota": 1, **ASK}
        held = await asyncio.gather(*(relay.hold(fields) for _ in range(20)))
        assert (await relay.would_hold(**fields)).request_id == "r1"
        await relay.close()
        assert all(each == held[0] and hash(each) == hash(held[0]) for each in held)
        return [each.replayed for each in held]

    found = asyncio.run(both())
    assert found.count(False) == 1
