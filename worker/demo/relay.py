"""The relay of the demo: threads that hold, call a simulated model, and settle or refund."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields

from relay_billing import BillingClient, IdempotencyConflict, InsufficientUserQuota
from relay_billing.client import ClientSession
from worker.demo.scene import Cast

THREADS = 8
DEAD_RELAY_TTL_S = 2
"""Seconds until the hold of a relay that dies in the demo expires."""


@dataclass(slots=True)
class Tally:
    """The relay's own count of one user's requests, kept without the ledger. Amounts in quota."""

    requests: int = 0
    held: int = 0
    settled: int = 0
    charged: int = 0
    refunded: int = 0
    expiring: int = 0
    refused: int = 0
    trusted: int = 0
    duplicates: int = 0
    replays: int = 0
    conflicts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def counts(self) -> dict[str, int]:
        """What was counted, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "lock"}

    def add(self, **counts: int) -> None:
        """Count, from any thread."""
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class UpstreamError(Exception):
    """The model did not answer."""


def play(
    client: BillingClient, cast: list[Cast], prefix: str, requests: int, done: Callable[[], None]
) -> dict[str, Tally]:
    """Relay `requests` requests from several threads; return what happened to each user, by name."""
    tallies = {each.name: Tally() for each in cast}
    weights = [8, 8, 6, 2]

    def one(number: int) -> None:
        dice = random.Random(f"{number}")
        who = dice.choices(cast, weights)[0]
        _relay(client, who, f"{prefix}{number}", dice, tallies[who.name])
        done()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, range(requests)))
    return tallies


def _relay(client: BillingClient, who: Cast, request_id: str, dice: random.Random, tally: Tally) -> None:
    estimate = dice.randrange(500, 4_000)
    fate = dice.random()
    tally.add(requests=1)
    dies = fate < 0.03

    def hold(quota: int) -> ClientSession:
        return client.pre_consume(
            request_id=request_id,
            user_id=who.user_id,
            token_id=who.token_id,
            quota=quota,
            model_name="demo-model",
            preference=who.preference,
            hold_ttl=DEAD_RELAY_TTL_S if dies else None,
        )

    try:
        session = hold(estimate)
    except InsufficientUserQuota:
        tally.add(refused=1)
        return
    tally.add(held=session.pre_consumed_quota, trusted=int(session.trusted))
    if dies:
        tally.add(expiring=session.pre_consumed_quota)
        return
    if fate < 0.18:
        hold(estimate)
        tally.add(replays=1)
    elif fate < 0.20:
        try:
            hold(estimate + 1)
        except IdempotencyConflict:
            tally.add(conflicts=1)
    try:
        actual = _call_model(estimate, dice)
    except UpstreamError:
        session.refund("upstream_error")
        tally.add(refunded=session.pre_consumed_quota)
        return
    session.settle(actual)
    tally.add(settled=1, charged=actual)
    if dice.random() < 0.15:
        session.settle(actual)
        tally.add(duplicates=1)


def _call_model(estimate: int, dice: random.Random) -> int:
    """What the call really used, in quota; now and then it fails."""
    if dice.random() < 0.15:
        raise UpstreamError("502")
    return int(estimate * dice.choice((0.3, 0.6, 0.9, 1.0, 1.2)))
