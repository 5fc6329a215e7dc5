"""The stand-in's own billing: deltas that wait in memory, caches that are changed immediately, absolute writes."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis
from sqlalchemy import Column, Connection, Engine, Table, select, update

from relay_billing.domain.account_type import AccountType
from tasks.relay_cache import token_key
from tests.fixtures.new_api import SUBSCRIPTIONS, TOKENS, USERS
from tests.standin.diary import Account, Diary

BALANCES: dict[AccountType, tuple[Table, Column[Any], int]] = {
    AccountType.WALLET: (USERS, USERS.c.quota, 1),
    AccountType.TOKEN: (TOKENS, TOKENS.c.remain_quota, 1),
    AccountType.SUBSCRIPTION: (SUBSCRIPTIONS, SUBSCRIPTIONS.c.amount_used, -1),
}
"""Where each balance is, and whether the column grows or falls with it."""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key of the relay."""

    user_id: int
    token_id: int
    preference: str = "wallet_first"
    subscription_id: int | None = None
    unlimited: bool = False

    @property
    def secret(self) -> str:
        """As it is in its table."""
        return f"key {self.token_id}"


@dataclass(slots=True)
class OwnBilling:
    """Holds are judged by Redis; wallets and tokens are written late, together (BATCH_UPDATE_ENABLED)."""

    engine: Engine
    cache: redis.Redis
    crypto_secret: str
    diary: Diary
    _pending: Counter[Account] = field(default_factory=Counter)
    _usage: Counter[tuple[int, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load_caches(self, keys: tuple[Key, ...]) -> None:
        """Its caches, from the database."""
        with self.engine.connect() as connection:
            for key in keys:
                wallet = connection.execute(select(USERS.c.quota).where(USERS.c.id == key.user_id)).scalar_one()
                left = connection.execute(select(TOKENS.c.remain_quota).where(TOKENS.c.id == key.token_id)).scalar_one()
                self.cache.hset(f"user:{key.user_id}", mapping={"Id": key.user_id, "Quota": wallet})
                self.cache.hset(token_key(key.secret, self.crypto_secret), mapping={"RemainQuota": left})

    def hold(self, key: Key, quota: int) -> bool:
        """Take it from the subscription where the key has one, else from the wallet; False: there is not enough."""
        if not key.unlimited and self._cached(token_key(key.secret, self.crypto_secret), "RemainQuota") < quota:
            return False
        if key.subscription_id is None and self._cached(f"user:{key.user_id}", "Quota") < quota:
            return False
        self.change(key, -quota)
        return True

    def change(self, key: Key, amount: int) -> None:
        """Move both legs: a hold, or at the end what is left of it, or missing."""
        self._change_late((AccountType.TOKEN, key.token_id), amount, token_key(key.secret, self.crypto_secret))
        if key.subscription_id is None:
            self._change_late((AccountType.WALLET, key.user_id), amount, f"user:{key.user_id}")
        else:
            self.write((AccountType.SUBSCRIPTION, key.subscription_id), lambda used: max(0, used - amount))

    def count(self, user_id: int, quota: int) -> None:
        """Its usage counters."""
        self.diary.charge(user_id, quota)
        with self._lock:
            self._usage[user_id, "used_quota"] += quota
            self._usage[user_id, "request_count"] += 1

    def write(self, account: Account, new: Callable[[int], int], **more: object) -> None:
        """Write a column whole. The row is locked and read first, so that the diary has what it changes."""
        table, column, sign = BALANCES[account[0]]
        with self.engine.begin() as connection:
            before = _locked(connection, table, column, account[1])
            after = new(before)
            connection.execute(update(table).where(table.c.id == account[1]).values({column.name: after, **more}))
        self.diary.move(account, sign * (after - before), cached=False)

    def flush(self) -> None:
        """Write what waits, a statement each."""
        with self._lock:
            pending, self._pending = self._pending, Counter()
            usage, self._usage = self._usage, Counter()
        for (kind, of), amount in pending.items():
            table, column, _ = BALANCES[kind]
            changed: dict[str, object] = {column.name: column + amount}
            if table is TOKENS:
                changed |= {"used_quota": TOKENS.c.used_quota - amount, "accessed_time": int(time.time())}
            self._run(update(table).where(table.c.id == of).values(changed))
        for (of, name), amount in usage.items():
            self._run(update(USERS).where(USERS.c.id == of).values({name: USERS.c[name] + amount}))

    def _run(self, statement: Any) -> None:  # noqa: ANN401
        with self.engine.begin() as connection:
            connection.execute(statement)

    def _cached(self, key: str, name: str) -> int:
        value = self.cache.hget(key, name)
        assert isinstance(value, str)
        return int(value)

    def _change_late(self, account: Account, amount: int, key: str) -> None:
        _, column, _ = BALANCES[account[0]]
        self.cache.hincrby(key, "Quota" if column is USERS.c.quota else "RemainQuota", amount)
        with self._lock:
            self._pending[account] += amount
        self.diary.move(account, amount, cached=True)


def _locked(connection: Connection, table: Table, column: Column[Any], of: int) -> int:
    return int(connection.execute(select(column).where(table.c.id == of).with_for_update()).scalar_one())
