"""A relay as a process: holds, settles, refunds and dies, and writes down what it was told.

`python -m tests.faults.relay DATABASE_URL BROKER_URL DIARY DURABILITY SEED`
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, Unpack

from relay_billing import BillingClient, BillingError, BillingUnavailable, Policy
from relay_billing.domain.choices import Durability
from relay_billing.domain.requests import HoldFields

THREADS = 3
USERS = 5
HOLD_TTL_S = 10
TRIES = 40
PAUSE_S = 0.25


class Billing(Protocol):
    """What a relay calls, whatever way it goes."""

    def pre_consume(self, **fields: Unpack[HoldFields]) -> object:
        """Hold."""

    def settle(self, request_id: str, actual_quota: int) -> None:
        """Charge."""

    def refund(self, request_id: str) -> None:
        """Give back."""


class Diary:
    """Lines that are on disk before the relay goes on."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a")  # noqa: SIM115
        self._lock = threading.Lock()

    def write(self, **line: object) -> None:
        """Append one line."""
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())


def insist(diary: Diary, request_id: str, call: Callable[[], object]) -> bool:
    """Call again while billing is unavailable; False: it stayed so, or refused, which nothing here gives reason for."""
    for _ in range(TRIES):
        try:
            call()
        except BillingUnavailable:
            time.sleep(PAUSE_S)
        except Exception as error:
            diary.write(id=request_id, did="refused", error=f"{type(error).__name__}: {error}")
            if isinstance(error, BillingError):
                return False
            raise
        else:
            return True
    diary.write(id=request_id, did="gave up")
    return False


def relay(client: Billing, diary: Diary, chance: random.Random, name: str, ending: threading.Event) -> None:
    """Relay requests until it is to end; the last one is brought to its end."""
    number = 0
    while not ending.is_set():
        number += 1
        request_id, user = f"{name}-{number}", chance.randint(1, USERS)
        quota, actual = chance.randint(0, 1_000), chance.randint(0, 1_500)
        ask = partial(client.pre_consume, request_id=request_id, user_id=user, token_id=user, quota=quota)
        if not insist(diary, request_id, partial(ask, hold_ttl=HOLD_TTL_S)):
            continue
        diary.write(id=request_id, did="held")
        what = chance.random()
        if what < 0.1:
            continue
        time.sleep(chance.random() * 0.05)
        if what < 0.3:
            diary.write(id=request_id, did="refunding")
            if insist(diary, request_id, partial(client.refund, request_id)):
                diary.write(id=request_id, did="refunded")
        else:
            diary.write(id=request_id, did="settling", actual=actual)
            if insist(diary, request_id, partial(client.settle, request_id, actual)):
                diary.write(id=request_id, did="settled", actual=actual)


def play(client: Billing, diary: Path, seed: str) -> None:
    """Start the threads; SIGTERM ends them."""
    written, ending = Diary(diary), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    threads = [
        threading.Thread(
            target=relay, args=(client, written, random.Random(f"{seed}-{number}"), f"{seed}-{number}", ending)
        )
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """In the relay's own process: no door is between it and the database."""
    database_url, broker_url, diary, durability, seed = sys.argv[1:]
    policy = Policy(trust_quota=0, durability=Durability(durability))
    client = BillingClient(database_url, broker_url, policy)
    play(client, Path(diary), seed)
    client.close()


if __name__ == "__main__":
    main()
