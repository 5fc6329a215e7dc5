"""A relay as a process: holds, settles, refunds and dies, and writes down what it was told.

`python -m tests.faults.relay DATABASE_URL BROKER_URL DIARY DURABILITY SEED`
"""

import json
import os
import random
import sys
import threading
import time
from pathlib import Path

from relay_billing import BillingClient, BillingError, BillingUnavailable, Policy
from relay_billing.domain.policy import Durability

THREADS = 3
USERS = 5
HOLD_TTL_S = 10
TRIES = 40
PAUSE_S = 0.25


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


def insist(call: object) -> bool:
    """Call again while billing is unavailable; False: it stayed so, or was refused."""
    for _ in range(TRIES):
        try:
            call()  # type: ignore[operator]
        except BillingUnavailable:
            time.sleep(PAUSE_S)
        except BillingError:
            return False
        else:
            return True
    return False


def relay(client: BillingClient, diary: Diary, chance: random.Random, name: str) -> None:
    """Relay requests for ever."""
    number = 0
    while True:
        number += 1
        request_id, user = f"{name}-{number}", chance.randint(1, USERS)
        quota, actual = chance.randint(0, 1_000), chance.randint(0, 1_500)
        ask = {"request_id": request_id, "user_id": user, "token_id": user, "quota": quota, "hold_ttl": HOLD_TTL_S}
        if not insist(lambda ask=ask: client.pre_consume(**ask)):
            continue
        diary.write(id=request_id, did="held")
        what = chance.random()
        if what < 0.1:
            continue
        time.sleep(chance.random() * 0.05)
        if what < 0.3:
            diary.write(id=request_id, did="refunding")
            if insist(lambda of=request_id: client.refund(of)):
                diary.write(id=request_id, did="refunded")
        else:
            diary.write(id=request_id, did="settling", actual=actual)
            if insist(lambda of=request_id, actual=actual: client.settle(of, actual)):
                diary.write(id=request_id, did="settled", actual=actual)


def main() -> None:
    """Start the threads."""
    database_url, broker_url, diary, durability, seed = sys.argv[1:]
    policy = Policy(trust_quota=0, durability=Durability(durability))
    client = BillingClient(database_url, broker_url, policy)
    book = Diary(Path(diary))
    threads = [
        threading.Thread(target=relay, args=(client, book, random.Random(f"{seed}-{number}"), f"{seed}-{number}"))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
