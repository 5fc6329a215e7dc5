"""What people do to balances in the stand-in's web pages, while requests come."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle

from sqlalchemy import select

from relay_billing.domain.account_type import AccountType
from tests.standin.diary import Account
from tests.standin.own_billing import BALANCES, Key, OwnBilling

REDEEMED, TRANSFERRED = 30_000, 5_000
OVERRIDE = 4_000_000
DAY_S = 86_400
WRITERS = ("redeem", "token_form", "override", "transfer", "subscription", "reset")


class People:
    """Top-ups add; forms, overrides, transfers and saves write what they read some time before."""

    def __init__(self, billing: OwnBilling, keys: tuple[Key, ...], thinks_s: float) -> None:
        """`thinks_s`: seconds between a form's read and its save, and between two of them."""
        self._billing, self._thinks_s = billing, thinks_s
        writers: tuple[Callable[[Key], None], ...] = tuple(getattr(self, f"_{name}") for name in WRITERS)
        self._next: Iterator[tuple[Callable[[Key], None], Key]] = (
            (writer, key)
            for number in cycle(range(len(writers) * len(keys)))
            for writer, key in [(writers[number % len(writers)], keys[number // len(writers)])]
        )

    def act(self, stop: threading.Event) -> None:
        """Do the next thing."""
        writer, key = next(self._next)
        writer(key)
        self._billing.diary.written[writer.__name__.removeprefix("_")] += 1
        stop.wait(self._thinks_s)

    def _read(self, account: Account) -> int:
        table, column, _ = BALANCES[account[0]]
        with self._billing.engine.connect() as connection:
            read = int(connection.execute(select(column).where(table.c.id == account[1])).scalar_one())
        threading.Event().wait(self._thinks_s)
        return read

    def _redeem(self, key: Key) -> None:
        """A code: adds, in the database alone."""
        self._billing.write((AccountType.WALLET, key.user_id), lambda quota: quota + REDEEMED)

    def _token_form(self, key: Key) -> None:
        """A new name, and with it the limit as it was when the form was opened."""
        token = (AccountType.TOKEN, key.token_id)
        read = self._read(token)
        self._billing.write(token, lambda _: read, name=f"renamed at {time.time():.0f}")

    def _override(self, key: Key) -> None:
        """An administrator's: one balance whatever it was. The cache is left as it was."""
        self._billing.write((AccountType.WALLET, key.user_id), lambda _: OVERRIDE)

    def _transfer(self, key: Key) -> None:
        """Of affiliate quota: what was read, and more."""
        wallet = (AccountType.WALLET, key.user_id)
        read = self._read(wallet)
        self._billing.write(wallet, lambda _: read + TRANSFERRED)

    def _subscription(self, key: Key) -> None:
        """Saved whole, what is used too."""
        if key.subscription_id is not None:
            subscription = (AccountType.SUBSCRIPTION, key.subscription_id)
            read = self._read(subscription)
            self._billing.write(subscription, lambda _: read, source="admin")

    def _reset(self, key: Key) -> None:
        """The master's, of a period that is over."""
        if key.subscription_id is not None:
            now = int(time.time())
            times = {"last_reset_time": now, "next_reset_time": now + DAY_S}
            self._billing.write((AccountType.SUBSCRIPTION, key.subscription_id), lambda _: 0, **times)
