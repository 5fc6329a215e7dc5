"""A shadow under a role that may only read accounts: the database itself holds it to moving nothing (§13)."""

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from relay_billing import Ledger, Outcome, RefundJob, SettleJob, UpdateDataError
from relay_billing.schema import ACCOUNT_TABLES, metadata
from relay_billing.store.drivers import engine_of
from tests.fixtures.accounts import Clock, given, states
from tests.fixtures.shadows import REAL, SHADOW, WEALTH, accounts_of, ask, hold

ROLE = f"billing_shadow_{os.getpid()}"
"""Roles belong to the whole server: that of a run has a name of its own."""


OURS = [each for each in metadata.tables if each not in ACCOUNT_TABLES]
MADE = {
    "postgresql": (
        f"CREATE ROLE {ROLE} LOGIN PASSWORD 'x'",
        f"GRANT USAGE ON SCHEMA public TO {ROLE}",
        f"GRANT ALL ON {', '.join(OURS)} TO {ROLE}",
        f"GRANT SELECT ON {', '.join(ACCOUNT_TABLES)} TO {ROLE}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {ROLE}",
    ),
    "mysql": (
        f"CREATE USER {ROLE} IDENTIFIED BY 'x'",
        *(f"GRANT ALL ON {each} TO {ROLE}" for each in OURS),
        *(f"GRANT SELECT ON {each} TO {ROLE}" for each in ACCOUNT_TABLES),
    ),
}
DROPPED = {"postgresql": (f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}"), "mysql": (f"DROP USER {ROLE}",)}


@pytest.fixture
def reader(server: Engine) -> Iterator[Engine]:
    """A login that may do all with our tables, and read the relay's."""
    with server.begin() as connection:
        for each in MADE[server.dialect.name]:
            connection.execute(text(each))
    login = engine_of(server.url.set(username=ROLE, password="x").render_as_string(hide_password=False))
    try:
        yield login
    finally:
        login.dispose()
        with server.begin() as connection:
            for each in DROPPED[server.dialect.name]:
                connection.execute(text(each))


def test_a_shadow_needs_no_right_to_change_an_account(reader: Engine, server: Engine) -> None:
    given(
        server,
        user=[{"id": 1, "quota": WEALTH}],
        token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}],
        plan=[{"id": 1, "title": "daily", "quota_reset_period": "daily"}],
        subscription=[{"id": 1, "user_id": 1, "plan_id": 1, "amount_total": 500, "start_time": 1, "end_time": 2**40}],
    )
    before, clock = accounts_of(server), Clock()
    shadow = Ledger(reader, SHADOW, clock)
    hold(shadow, "s1", "s2", "s3", "s4")
    hold(shadow, "s5", preference="subscription_only")
    shadow.pre_consume_many([ask("s6", quota=10**9)])
    shadow.reserve("s1", 200)
    shadow.intend([SettleJob("s3", 5)])
    assert shadow.apply([SettleJob("s1", 70), RefundJob("s2"), SettleJob("s5", 30)]) == [Outcome.APPLIED] * 3
    clock.at = 120
    assert (shadow.apply_intents(), shadow.expire_holds(), shadow.reset_subscriptions()) == (1, 1, 0)
    assert set(states(server).values()) == {"settled", "refunded", "expired"}
    assert accounts_of(server) == before
    with pytest.raises(UpdateDataError, match=r"permission denied|command denied"):
        Ledger(reader, REAL, clock).pre_consume(request_id="r1", user_id=1, token_id=1, quota=5)
    assert shadow.reconcile() == []
