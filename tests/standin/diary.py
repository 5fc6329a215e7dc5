"""What a stand-in relay has done, so that a test can say what has to be there."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from relay_billing.domain.account_type import AccountType

Account = tuple[AccountType, int]


@dataclass(slots=True)
class Diary:
    """Its own movements of balances, and the requests that it billed through us. Safe for threads."""

    moved: Counter[Account] = field(default_factory=Counter)
    """Of the database. A subscription's balance is `-amount_used`, as in the ledger."""
    cached: Counter[Account] = field(default_factory=Counter)
    """Of these, what its caches have, too."""
    ended: dict[str, int | None] = field(default_factory=dict)
    """Requests billed through us: what they were settled with; None: they were refunded."""
    lost: set[str] = field(default_factory=set)
    """Requests that were held through us, and that the relay died with."""
    charged: Counter[int] = field(default_factory=Counter)
    """By user: what its log says was charged, by whomever."""
    requests: Counter[int] = field(default_factory=Counter)
    """By user: requests that were charged."""
    written: Counter[str] = field(default_factory=Counter)
    """By name: how often each of its writers wrote."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def move(self, account: Account, amount: int, *, cached: bool) -> None:
        """A movement of its own."""
        with self.lock:
            self.moved[account] += amount
            if cached:
                self.cached[account] += amount

    def end(self, request_id: str, actual: int | None) -> None:
        """A request that we were asked to end."""
        with self.lock:
            self.ended[request_id] = actual

    def charge(self, user_id: int, quota: int) -> None:
        """A row in its log."""
        with self.lock:
            self.charged[user_id] += quota
            self.requests[user_id] += 1
