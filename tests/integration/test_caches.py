"""`billing.caches` on a real Redis: deltas are applied once or not at all, wherever its process or connection dies."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from prometheus_client import REGISTRY
from sqlalchemy import Engine

from config.settings import SettingsError, load
from relay_billing import AsyncBillingClient, BillingClient, Ledger, Policy, SettleJob
from tasks.base import LedgerTask, OpenLedger
from tasks.caches import caches
from tasks.relay_cache import token_key
from tests.faults.proxy import CHUNK, Proxy
from tests.fixtures.accounts import given, token, wallet
from tests.fixtures.brokers import on
from tests.fixtures.relay_redis import SECRET
from tests.fixtures.typed import named_by_settings
from tests.fixtures.waiting import until
from tests.fixtures.workers import CELERY, ROOT, Site, environment

WEALTH = 1_000
TTL_S = 60
POLICY = Policy(trust_quota=0, cache_deltas=True)
TOKEN = token_key("sk-1", SECRET)
TIMEOUT_S = 40.0
KILLED = """
import os, signal, sys
import relay_billing.flows.cache_deltas as flow
from tasks.caches import caches
from tasks.relay_cache import RelayCache

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

of, name = {"claimed": (flow, "_accounts"), "applied": (RelayCache, "apply"), "closed": (flow, "close")}[sys.argv[1]]
setattr(of, name, die)
caches.run()
"""
"""Dies before the step that its argument names."""


class Swallowing(Proxy):
    """Passes scripts on to Redis, and the first answer to nobody."""

    scripts: int = 0
    swallowed: bool = False

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> bool:
        try:
            data = source.recv(CHUNK)
            self.scripts += data.count(b"EVAL")
            if self.scripts and not self.swallowed and source.getpeername()[1] == self.target:
                self.swallowed = True
                return False
            if not data:
                return False
            sink.sendall(data)
        except OSError:
            # Either end is gone.
            return False
        return True


@pytest.fixture
def ledger(
    empty_url: str, tmp_path: Path, relay_redis: str, cache: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ledger]:
    """A migrated database, which the settings name with the relay's Redis, and both caches of its one user."""
    monkeypatch.setenv("BILLING_NEW_API_REDIS_URL", relay_redis)
    monkeypatch.setenv("BILLING_NEW_API_CRYPTO_SECRET", SECRET)
    monkeypatch.setattr(LedgerTask, "opened", OpenLedger())
    with named_by_settings(empty_url, tmp_path, monkeypatch, 100) as engine:
        fill(engine, cache)
        yield Ledger(engine, POLICY)
        LedgerTask.opened.open()[0]._engine.dispose()


def fill(engine: Engine, cache: redis.Redis) -> None:
    given(
        engine,
        user=[{"id": 1, "quota": WEALTH}],
        token=[{"id": 1, "user_id": 1, "key": "sk-1", "remain_quota": WEALTH}],
    )
    cache.hset("user:1", mapping={"Id": 1, "Quota": WEALTH, "Group": "default"})
    cache.hset(TOKEN, mapping={"Id": 1, "RemainQuota": WEALTH})
    cache.expire("user:1", TTL_S)


def hold(ledger: Ledger, request_id: str = "r1") -> None:
    ledger.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100)


def cached(cache: redis.Redis) -> tuple[int, int]:
    wallet_, token_ = cache.hget("user:1", "Quota"), cache.hget(TOKEN, "RemainQuota")
    assert isinstance(wallet_, str)
    assert isinstance(token_, str)
    return int(wallet_), int(token_)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"billing_cache_{name}_total", labels) or 0.0


def grown(result: str, work: Callable[[], object]) -> float:
    """By how much a result's count grows."""
    before = counted("deltas", result=result)
    work()
    return counted("deltas", result=result) - before


def test_caches_follow_the_balances_and_keep_their_fields_and_time_to_live(ledger: Ledger, cache: redis.Redis) -> None:
    hold(ledger)
    hold(ledger, "r2")
    ledger.apply([SettleJob("r1", 60)])
    before = counted("differences")
    assert grown("applied", caches.run) == 2
    assert cached(cache) == (wallet(ledger._engine), token(ledger._engine)) == (840, 840)
    assert cache.hgetall("user:1") == {"Id": "1", "Quota": "840", "Group": "default"}
    assert 0 < cache.ttl("user:1") <= TTL_S
    assert cache.ttl(TOKEN) == -1
    assert counted("differences") == before
    caches.run()
    assert cached(cache) == (840, 840)


def test_a_cache_that_is_not_there_is_not_made(ledger: Ledger, cache: redis.Redis) -> None:
    cache.delete("user:1")
    cache.hdel(TOKEN, "RemainQuota")
    hold(ledger)
    assert grown("absent", caches.run) == 2
    assert cache.keys() == [TOKEN]
    assert cache.hgetall(TOKEN) == {"Id": "1"}


def test_a_cache_that_is_no_hash_or_no_number_is_left_and_counted(ledger: Ledger, cache: redis.Redis) -> None:
    cache.delete("user:1")
    cache.set("user:1", "mine")
    cache.hset(TOKEN, "RemainQuota", "much")
    hold(ledger)
    assert grown("refused", caches.run) == 2
    assert (cache.get("user:1"), cache.hget(TOKEN, "RemainQuota")) == ("mine", "much")


def test_a_cache_that_says_something_else_than_the_database_is_reported(ledger: Ledger, cache: redis.Redis) -> None:
    cache.hset("user:1", "Quota", WEALTH + 7)
    hold(ledger)
    before = counted("differences")
    caches.run()
    assert counted("differences") - before == 1
    assert cached(cache) == (WEALTH + 7 - 100, WEALTH - 100)


@pytest.mark.parametrize("empty_url", ["sqlite", "postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("before", "after_the_next_run", "uncertain"),
    [("claimed", WEALTH - 100, 0), ("applied", WEALTH, 2), ("closed", WEALTH - 100, 2)],
)
def test_a_worker_killed_at_any_step_applies_a_delta_once_or_not_at_all(
    ledger: Ledger, cache: redis.Redis, empty_url: str, before: str, after_the_next_run: int, uncertain: int
) -> None:
    hold(ledger)
    command = (sys.executable, "-c", KILLED, before)
    died = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    caches.run()
    assert cached(cache) == (after_the_next_run, after_the_next_run)
    with ledger._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE billing_cache_deltas SET claimed_at = claimed_at - 31000")
    assert grown("uncertain", caches.run) == uncertain
    assert cached(cache) == (after_the_next_run, after_the_next_run)
    assert wallet(ledger._engine) == WEALTH - 100


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
def test_an_answer_that_gets_lost_is_not_asked_for_twice(
    ledger: Ledger, cache: redis.Redis, relay_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Swallowing(urlsplit(relay_redis).port or 0)
    monkeypatch.setenv("BILLING_NEW_API_REDIS_URL", f"redis://127.0.0.1:{proxy.port}/0")
    hold(ledger)
    caches.run()
    proxy.close()
    assert cached(cache) == (WEALTH - 100, WEALTH - 100)
    assert (proxy.scripts, proxy.swallowed) == (2, True)
    monkeypatch.setenv("BILLING_NEW_API_REDIS_URL", relay_redis)
    monkeypatch.setattr(LedgerTask, "opened", OpenLedger())
    caches.run()
    assert cached(cache) == (WEALTH - 100, WEALTH - 100)


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
def test_while_redis_is_away_nothing_is_claimed_and_later_all_is_applied(
    ledger: Ledger, cache: redis.Redis, relay_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_NEW_API_REDIS_URL", "redis://127.0.0.1:1/0")
    hold(ledger)
    caches.run()
    LedgerTask.opened.open()[0]._engine.dispose()
    monkeypatch.setenv("BILLING_NEW_API_REDIS_URL", relay_redis)
    monkeypatch.setattr(LedgerTask, "opened", OpenLedger())
    caches.run()
    assert cached(cache) == (WEALTH - 100, WEALTH - 100)


@on("redis")
def test_clients_worker_and_beat_bring_movements_to_the_caches_in_seconds(
    site: Site, cache: redis.Redis, relay_redis: str
) -> None:
    fill(site.engine, cache)
    chosen = {"new_api_redis_url": relay_redis, "new_api_crypto_secret": SECRET, "trust_quota": 0}
    site.worker(**chosen)  # type: ignore[arg-type]
    site.spawn((*CELERY, "beat"), environment(site.database_url, site.broker.url, site.folder / "beat", **chosen))
    client = BillingClient(site.database_url, site.broker.url, policy=POLICY)
    client.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
    until(lambda: cached(cache) == (900, 900), TIMEOUT_S, "the hold in the caches")
    client.settle("r1", 60)
    until(lambda: cached(cache) == (940, 940), TIMEOUT_S, "the settle in the caches")
    client.close()
    assert (wallet(site.engine), token(site.engine)) == (940, 940)


@pytest.mark.parametrize("empty_url", ["postgresql", "mariadb"], indirect=True)
def test_the_hold_of_an_async_client_comes_too(
    ledger: Ledger, cache: redis.Redis, empty_url: str, tmp_path: Path
) -> None:
    async def held() -> None:
        client = AsyncBillingClient(empty_url, f"filesystem://{tmp_path}/broker", policy=POLICY)
        await client.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
        await client.close()

    asyncio.run(held())
    caches.run()
    assert cached(cache) == (WEALTH - 100, WEALTH - 100)


def test_the_redis_must_be_one_and_needs_the_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BILLING_NEW_API_REDIS_URL", "http://127.0.0.1")
    with pytest.raises(SettingsError, match="BILLING_NEW_API_REDIS_URL: must be like redis://"):
        load()
    monkeypatch.setenv("BILLING_NEW_API_REDIS_URL", "redis://127.0.0.1")
    with pytest.raises(SettingsError, match="BILLING_NEW_API_CRYPTO_SECRET: must be set"):
        load()
    monkeypatch.setenv("BILLING_NEW_API_CRYPTO_SECRET", SECRET)
    assert load().policy.cache_deltas
