"""A new-api relay's caches in Redis: hashes with a balance each, changed by deltas, never made and never removed."""

import hmac
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.cache_deltas import CacheDelta

TIMEOUT_S = 1.0
"""Seconds that Redis may take for one answer."""
APPLY = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return false end
return redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
"""
"""Changes a field that is there; answers its new value. HINCRBY leaves the hash's time to live as it is."""

Account = tuple[AccountType, int]


def token_key(key: str, crypto_secret: str) -> str:
    """The name of a token's cache: by the HMAC-SHA256 of its API key."""
    return f"token:{hmac.new(crypto_secret.encode(), key.encode(), 'sha256').hexdigest()}"


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of the accounts' deltas."""

    values: Mapping[Account, int]
    """Cached balances after them."""
    absent: int
    """Accounts without a cache: nothing to do."""
    refused: tuple[str, ...]
    """Redis' reasons for those whose cache is no hash with a number."""


class RelayCache:
    """A connection to the relay's Redis. No command is ever sent twice: a delta must not be applied twice."""

    def __init__(self, redis_url: str, crypto_secret: str) -> None:
        """Raises ValueError for an invalid URL; opens no connection."""
        self._secret = crypto_secret
        self._client = redis.Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            # Said here whatever the default is: some of redis-py's clients repeat a command whose answer was lost.
            retry=Retry(NoBackoff(), 0),
        )

    def __enter__(self) -> "RelayCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def ping(self) -> None:
        """Raises redis.RedisError where Redis does not answer."""
        self._client.ping()

    def apply(self, deltas: Sequence[CacheDelta], keys: Mapping[int, str]) -> Applied:
        """Change each account's cache by the sum of its deltas. `keys`: the API keys of tokens.

        Raises redis.RedisError where the answer did not come: then some may be applied.
        """
        sums: Counter[Account] = Counter()
        for each in deltas:
            sums[each.account_type, each.account_id] += each.amount
        sent: list[Account] = []
        pipeline = self._client.pipeline(transaction=False)
        for account, amount in sums.items():
            kind, of = account
            if kind is AccountType.TOKEN and of not in keys:
                # Removed since: its cache has no name any more.
                continue
            name, field = (
                (f"user:{of}", "Quota")
                if kind is AccountType.WALLET
                else (token_key(keys[of], self._secret), "RemainQuota")
            )
            pipeline.eval(APPLY, 1, name, field, str(amount))
            sent.append(account)
        answers = pipeline.execute(raise_on_error=False) if sent else []
        values = {account: int(value) for account, value in zip(sent, answers, strict=True) if isinstance(value, int)}
        refused = tuple(str(each) for each in answers if isinstance(each, redis.ResponseError))
        return Applied(values, len(sums) - len(values) - len(refused), refused)
