"""What a client counts in the registry that its relay gives."""

import asyncio
import builtins

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from relay_billing import AsyncBillingClient, BillingClient, InsufficientUserQuota, InvalidRequest, Policy
from tests.fixtures.accounts import given
from tests.fixtures.brokers import free_port
from tests.fixtures.waiting import until

HELD = Policy(trust_quota=0)


@pytest.fixture
def url(engine: Engine) -> str:
    given(engine, user=[{"id": 1, "quota": 1_000}], token=[{"id": 1, "user_id": 1, "remain_quota": 1_000}])
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def counted(registry: CollectorRegistry) -> dict[str, float | None]:
    """The numbers that both clients must come to."""
    names: dict[str, tuple[str, dict[str, str]]] = {
        "holds": ("billing_client_pre_consume_seconds_count", {}),
        "ok": ("billing_client_pre_consumes_total", {"code": "ok"}),
        "short": ("billing_client_pre_consumes_total", {"code": "insufficient_user_quota"}),
        "invalid": ("billing_client_pre_consumes_total", {"code": "invalid_request"}),
        "quota": ("billing_client_held_quota_total", {}),
        "settles": ("billing_client_ends_total", {"task": "billing.settle", "state": "safe"}),
        "refunds": ("billing_client_ends_total", {"task": "billing.refund", "state": "safe"}),
        "waiting": ("billing_client_waiting", {"what": "holds"}),
    }
    return {word: registry.get_sample_value(name, labels) for word, (name, labels) in names.items()}


WANTED = {"holds": 5, "ok": 3, "short": 1, "invalid": 1, "quota": 300, "settles": 1, "refunds": 1, "waiting": 0}


def test_a_client_counts_holds_refusals_and_what_it_made_safe(url: str, registry: CollectorRegistry) -> None:
    client = BillingClient(url, f"redis://127.0.0.1:{free_port()}/0", HELD, metrics=registry)
    for request_id, quota in (("r1", 100), ("r2", 200), ("r1", 100)):
        client.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=quota)
    with pytest.raises(InsufficientUserQuota):
        client.pre_consume(request_id="r3", user_id=1, token_id=1, quota=5_000)
    with pytest.raises(InvalidRequest):
        client.pre_consume(request_id="r4", user_id=1, token_id=1, quota=-1)
    client.settle("r1", 60)
    client.refund("r2")
    assert counted(registry) == WANTED
    until(lambda: registry.get_sample_value("billing_client_unposted_jobs_total") == 2, 20, "jobs left to intents")
    client.close()


def test_an_async_client_counts_the_same(url: str, registry: CollectorRegistry) -> None:
    async def play() -> None:
        client = AsyncBillingClient(url, f"redis://127.0.0.1:{free_port()}/0", HELD, metrics=registry)
        for request_id, quota in (("r1", 100), ("r2", 200), ("r1", 100)):
            await client.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=quota)
        with pytest.raises(InsufficientUserQuota):
            await client.pre_consume(request_id="r3", user_id=1, token_id=1, quota=5_000)
        with pytest.raises(InvalidRequest):
            await client.pre_consume(request_id="r4", user_id=1, token_id=1, quota=-1)
        await client.settle("r1", 60)
        await client.refund("r2")
        await client.close()

    asyncio.run(play())
    assert counted(registry) == WANTED
    assert registry.get_sample_value("billing_client_unposted_jobs_total") == 2


def test_two_clients_can_not_share_a_registry(registry: CollectorRegistry) -> None:
    first = BillingClient("sqlite:///none.db", "redis://127.0.0.1:1/0", metrics=registry)
    with pytest.raises(InvalidRequest, match="metrics: this registry has a client's metrics already"):
        BillingClient("sqlite:///none.db", "redis://127.0.0.1:1/0", metrics=registry)
    first.close()


def test_a_missing_library_is_named(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "prometheus_client":
            raise ModuleNotFoundError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidRequest, match="pip install prometheus-client"):
        BillingClient("sqlite:///none.db", "redis://127.0.0.1:1/0", metrics=registry)
