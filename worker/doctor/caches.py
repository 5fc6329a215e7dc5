"""A relay's caches in Redis: whether they are there, and whether they say what the database says."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import sleep
from urllib.parse import urlsplit

import redis
from sqlalchemy import select

from relay_billing.schema import tokens, users
from tasks.relay_cache import token_key
from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Subject

TIMEOUT_S = 2
"""Seconds that Redis may take for one answer."""
ROUNDS, KEYS_A_ROUND = 100, 1_000
"""How far Redis' keys are walked through."""
MOST_COMPARED = 50
"""Wallets, and tokens, that are compared at most."""
MOST_TOKENS = 5_000
"""The newest tokens, whose caches are looked for among the keys."""

_USER = re.compile(r"user:(\d+)")


@dataclass(frozen=True, slots=True)
class _Cached:
    """A cached balance, and where the same one is in the database."""

    key: str
    field: str
    what: str
    """`user` or `token`."""
    id: int


Values = Mapping[_Cached, int]


def _keys(client: redis.Redis, pattern: str) -> set[str]:
    found: set[str] = set()
    cursor = 0
    for _ in range(ROUNDS):
        cursor, page = client.scan(cursor, match=pattern, count=KEYS_A_ROUND, _type="HASH")
        found.update(map(str, page))
        if cursor == 0:
            break
    return found


def _caches(subject: Subject, client: redis.Redis) -> tuple[list[_Cached], int]:
    """What can be compared, and how many tokens' caches can't be for want of the secret."""
    ids = sorted(int(found[1]) for key in _keys(client, "user:*") if (found := _USER.fullmatch(key)))
    cached = [_Cached(f"user:{each}", "Quota", "user", each) for each in ids[:MOST_COMPARED]]
    keys, secret = _keys(client, "token:*"), subject.asked.crypto_secret.get_secret_value()
    if not keys or not secret:
        return cached, len(keys)
    newest = select(tokens.c.id, tokens.c.key).order_by(tokens.c.id.desc()).limit(MOST_TOKENS)
    named = {token_key(str(row.key), secret): int(row.id) for row in subject.reading.rows(newest)}
    shared = sorted(keys & set(named))[:MOST_COMPARED]
    return cached + [_Cached(key, "RemainQuota", "token", named[key]) for key in shared], 0


def _in_redis(client: redis.Redis, cached: Sequence[_Cached]) -> Values:
    pipeline = client.pipeline(transaction=False)
    for each in cached:
        pipeline.hget(each.key, each.field)
    values = zip(cached, pipeline.execute(), strict=True)
    return {each: int(value) for each, value in values if value is not None and re.fullmatch(r"-?\d+", value)}


def _in_database(subject: Subject, cached: Sequence[_Cached]) -> Values:
    found: dict[_Cached, int] = {}
    for what, id_, amount in (("user", users.c.id, users.c.quota), ("token", tokens.c.id, tokens.c.remain_quota)):
        of = {each.id: each for each in cached if each.what == what}
        if of:
            rows = subject.reading.rows(select(id_, amount).where(id_.in_(of)))
            found |= {of[int(key)]: int(value or 0) for key, value in (tuple(row) for row in rows)}
    return found


def _differences(subject: Subject, client: redis.Redis, cached: Sequence[_Cached]) -> tuple[int, Values]:
    """How many were compared, and of those that differ: what Redis says less what the database says."""
    there, kept = _in_redis(client, cached), _in_database(subject, cached)
    both = there.keys() & kept.keys()
    return len(both), {each: there[each] - kept[each] for each in both if there[each] != kept[each]}


def caches(subject: Subject) -> Iterator[Finding]:
    """Whether the relay's cached balances agree with the database's. Only reads Redis."""
    url = subject.asked.redis_url
    if not url:
        if subject.tables.foreign:
            hint = (
                "Give --redis, or BILLING_NEW_API_REDIS_URL, where the relay has one: it judges requests by its caches"
            )
            yield Finding(Status.YELLOW, "no Redis was given, so the relay's caches are not looked at", hint)
        return
    host = urlsplit(url).hostname
    try:
        client = redis.Redis.from_url(
            url, decode_responses=True, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
        with client:
            yield from _compared(subject, client, f"Redis at {host}")
    except (redis.RedisError, ValueError) as error:
        yield Finding(
            Status.RED, f"Redis at {host} can't be asked: {error}", "Look at the URL, its user and its password"
        )


def _compared(subject: Subject, client: redis.Redis, name: str) -> Iterator[Finding]:
    cached, hidden = _caches(subject, client)
    if hidden:
        hint = "Set BILLING_NEW_API_CRYPTO_SECRET to the relay's CRYPTO_SECRET"
        yield Finding(Status.YELLOW, f"{name}: {hidden:,} caches of tokens can't be compared without the secret", hint)
    compared, first = _differences(subject, client, cached)
    if not compared:
        yield Finding(Status.GREEN, f"{name} has no cached balance to compare: the relay has none now, or keeps none")
        return
    if not first:
        yield Finding(Status.GREEN, f"{name}: {compared:,} cached balances agree with the database")
        return
    sleep(subject.asked.lag_s)
    _, second = _differences(subject, client, tuple(first))
    stale = {each: gap for each, gap in second.items() if gap == first[each]}
    moved = len(first) - len(stale)
    if moved:
        sentence = (
            f"{moved:,} of {compared:,} cached balances differed from the database, and otherwise "
            f"{subject.asked.lag_s:g} s later: the relay writes its changes late"
        )
        yield Finding(
            Status.YELLOW, sentence, "BATCH_UPDATE_ENABLED=false: until then a hold is judged by old balances"
        )
    if stale:
        worst = max(stale, key=lambda each: abs(stale[each]))
        sentence = (
            f"{len(stale):,} of {compared:,} cached balances stay different from the database: {worst.what} {worst.id} "
            f"by {stale[worst]:+,} in Redis"
        )
        hint = "The relay lets requests pass by these; they end with their time to live. Never delete them by hand"
        yield Finding(Status.YELLOW, sentence, hint)
