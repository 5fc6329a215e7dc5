"""What the doctor says of a relay's caches, on a Redis of the test's own."""

import hashlib
import hmac
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from tests.fixtures.brokers import free_port
from tests.fixtures.looked_at import LookedAt
from tests.fixtures.relay_redis import SECRET
from worker.doctor import caches
from worker.doctor.finding import Status
from worker.doctor.subject import Questions

RED, YELLOW, GREEN = Status.RED, Status.YELLOW, Status.GREEN
KEY = "sk-of-ada"
TOKEN = f"token:{hmac.new(SECRET.encode(), KEY.encode(), hashlib.sha256).hexdigest()}"

pytestmark = pytest.mark.parametrize("looked_at", ["sqlite", "mariadb"], indirect=True)
"""Not every database: what is compared is read from it by two plain statements."""


@pytest.fixture
def relay(looked_at: LookedAt, relay_redis: str) -> LookedAt:
    """A relay's database with one user and token, and its caches' address."""
    looked_at.with_new_api().run(
        "INSERT INTO users (id, password, quota) VALUES (7, 'x', 100)",
        f"INSERT INTO tokens (id, user_id, `key`, remain_quota) VALUES (3, 7, '{KEY}', 50)",
    )
    looked_at.asked = Questions(redis_url=relay_redis, crypto_secret=SecretStr(SECRET), lag_s=0.05)
    return looked_at


def cached(cache: redis.Redis, quota: int = 100, remain: int = 50) -> None:
    cache.hset("user:7", mapping={"Id": "7", "Quota": str(quota)})
    cache.hset(TOKEN, mapping={"Id": "3", "RemainQuota": str(remain)})
    cache.expire("user:7", 60)


def test_caches_that_agree_are_green(relay: LookedAt, cache: redis.Redis) -> None:
    cached(cache)
    status, sentence = relay.worst("caches")
    assert (status, "2 cached balances agree" in sentence) == (GREEN, True)


def test_no_caches_are_green_and_other_keys_are_left_out(relay: LookedAt, cache: redis.Redis) -> None:
    cache.set("user:7", "not a hash")
    cache.hset("user:8", mapping={"Quota": "of nobody"})
    cache.hset("user:x", mapping={"Quota": "1"})
    status, sentence = relay.worst("caches")
    assert (status, "no cached balance to compare" in sentence) == (GREEN, True)


def test_a_balance_that_stays_different_is_yellow(relay: LookedAt, cache: redis.Redis) -> None:
    cached(cache, quota=130, remain=40)
    status, sentence = relay.worst("caches")
    assert status is YELLOW
    assert "2 of 2 cached balances stay different from the database: user 7 by +30 in Redis" in sentence


def test_a_balance_that_the_database_gets_late_is_a_sign_of_batch_updates(
    relay: LookedAt, cache: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(cache, quota=70)
    waited: list[float] = []

    def flush(seconds: float) -> None:
        waited.append(seconds)
        relay.run("UPDATE users SET quota = 70")

    monkeypatch.setattr(caches, "sleep", flush)
    status, sentence = relay.worst("caches")
    assert (status, waited) == (YELLOW, [0.05])
    assert "1 of 2 cached balances differed" in sentence
    assert "writes its changes late" in sentence
    assert "stay different" not in sentence


def test_tokens_are_not_compared_without_the_secret(relay: LookedAt, cache: redis.Redis) -> None:
    cached(cache)
    relay.asked = replace(relay.asked, crypto_secret=SecretStr(""))
    status, sentence = relay.worst("caches")
    assert status is YELLOW
    assert "1 caches of tokens can't be compared" in sentence
    assert "1 cached balances agree" in sentence


def test_nothing_in_redis_is_changed(relay: LookedAt, cache: redis.Redis) -> None:
    cached(cache, quota=1)
    before = {key: (cache.hgetall(key), cache.ttl(key) > 0) for key in cache.scan_iter()}
    cache.config_resetstat()
    relay.worst("caches")
    assert {key: (cache.hgetall(key), cache.ttl(key) > 0) for key in cache.scan_iter()} == before
    mine = {"config|resetstat", "hgetall", "ttl", "info"}
    used = {name.removeprefix("cmdstat_") for name in cache.info("commandstats")}
    assert used - mine <= {"scan", "hget", "client|setinfo", "hello", "select", "ping"}


def test_a_redis_that_does_not_answer_is_red(relay: LookedAt, tmp_path: Path) -> None:
    relay.asked = replace(relay.asked, redis_url=f"redis://:hidden-password@127.0.0.1:{free_port()}/0")
    status, sentence = relay.worst("caches")
    assert (status, sentence.startswith("Redis at 127.0.0.1 can't be asked: ")) == (RED, True)
    relay.asked = replace(relay.asked, redis_url="http://127.0.0.1")
    assert relay.worst("caches")[0] is RED
