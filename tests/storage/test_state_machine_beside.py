"""Random lives of sessions in a relay's own tables, which the relay changes meanwhile, against the small model."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from sqlalchemy import Engine, Table, update

from relay_billing import Policy
from relay_billing.domain.ownership import Accounts, Calendar
from relay_billing.store.drivers import engine_of
from tests.fixtures.new_api import SUBSCRIPTIONS, TOKENS, USERS, new_api, new_api_rows
from tests.model import DAY
from tests.storage.test_state_machine import Lives, live


class LivesBeside(Lives):
    """One user's sessions, while the relay switches accounts on and off, pays in, and resets what is used."""

    def _write(self, table: Table, of: int, **values: Any) -> None:  # noqa: ANN401
        with self.engine.begin() as connection:
            connection.execute(update(table).where(table.c.id == of).values(**values))

    @rule(status=st.sampled_from([1, 1, 2, None]))
    def switch_the_user(self, status: int | None) -> None:
        self.model.user_may = status == 1
        self._write(USERS, 1, status=status)

    @rule(status=st.sampled_from([1, 1, 2, 4]), expired_time=st.sampled_from([-1, 5]))
    def switch_the_token(self, status: int, expired_time: int) -> None:
        self.model.token_may = status == 1 and expired_time == -1
        self._write(TOKENS, 1, status=status, expired_time=expired_time)

    @rule(of=st.sampled_from([1, 2]), word=st.sampled_from([None, True, False]))
    def let_a_subscription_spill(self, of: int, word: bool | None) -> None:
        self.model.subs[of].spills = word is not False
        self._write(SUBSCRIPTIONS, of, allow_wallet_overflow=word)

    @rule(more=st.integers(-300, 600))
    def change_the_wallet(self, more: int) -> None:
        self.model.wallet += more
        self._write(USERS, 1, quota=USERS.c.quota + more)

    @rule(left=st.integers(0, 2_000))
    def edit_the_token(self, left: int) -> None:
        if self.model.token is not None:
            self.model.token = left
            self._write(TOKENS, 1, remain_quota=left)

    @rule(of=st.sampled_from([1, 2]), last=st.booleans(), following=st.booleans())
    def reset_a_subscription(self, of: int, last: bool, following: bool) -> None:
        """As the relay's master does, or an administrator, who leaves a time as it was."""
        if not self.model.external:
            return
        sub = self.model.subs[of]
        sub.used, sub.last = 0, self.model.now if last else sub.last
        sub.next = self.model.now + DAY if following else sub.next
        self._write(SUBSCRIPTIONS, of, amount_used=0, last_reset_time=sub.last, next_reset_time=sub.next)

    @rule()
    def adopt(self) -> None:
        self.ledger.adopt(list(self.ledger.findings()))
        assert list(self.ledger.findings()) == []

    def reconciles(self) -> None:
        """No session is off, and what the relay has changed is explained in one step."""
        assert self.ledger.reconcile() == []
        self.adopt()


@pytest.fixture
def relays(empty_url: str) -> Iterator[Engine]:
    engine = engine_of(empty_url)
    new_api(engine)
    yield engine
    engine.dispose()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("calendar", list(Calendar))
def test_whatever_the_relay_does_meanwhile_the_balances_are_the_models(
    relays: Engine, calendar: Calendar, pytestconfig: pytest.Config
) -> None:
    policy = Policy(accounts=Accounts.NEW_API, subscription_calendar=calendar)
    values = {"engine": relays, "fast_paths": True, "policy": policy, "put": staticmethod(new_api_rows)}
    live(type("LivesOnThis", (LivesBeside,), values), pytestconfig)
