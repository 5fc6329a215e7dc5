"""Deltas for a relay's caches: in the transaction of their movements, claimed once, given up when nobody knows."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Engine, select

from relay_billing import BillingError, InsufficientUserQuota, Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.cache_deltas import LATE_MS, UNCERTAIN_MS
from relay_billing.flows import cache_deltas as flow
from relay_billing.schema import billing_cache_deltas, billing_ledger
from tests.fixtures.accounts import Clock, given, token, wallet

WEALTH = 1_000
POLICY = Policy(trust_quota=0, cache_deltas=True)
LIMIT = 500


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(engine: Engine, clock: Clock) -> Ledger:
    """A ledger that keeps deltas, and one user with a token and a subscription."""
    given(
        engine,
        user=[{"id": 1, "quota": WEALTH}],
        token=[{"id": 1, "user_id": 1, "key": "sk-1", "remain_quota": WEALTH}],
        subscription=[{"id": 1, "user_id": 1, "amount_total": WEALTH, "end_time": 2**40}],
    )
    return Ledger(engine, POLICY, clock)


def hold(ledger: Ledger, request_id: str = "r1", preference: str = "wallet_only") -> None:
    ledger.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100, preference=preference)


def sums(engine: Engine) -> tuple[int, int]:
    """The sum of all deltas, of wallet and token."""
    c, found = billing_cache_deltas.c, Counter[str]()
    with engine.connect() as connection:
        for kind, amount in connection.execute(select(c.account_type, c.amount)):
            found[kind] += amount
    assert set(found) <= {"wallet", "token"}
    return found["wallet"], found["token"]


Step = Callable[[Ledger], object]
LIVES: dict[str, tuple[Step, ...]] = {
    "hold": (hold,),
    "holds": (lambda ledger: ledger.pre_consume_many([PreConsume(f"m{each}", 1, 1, 10) for each in range(5)]),),
    "replay": (hold, hold),
    "reserve": (hold, lambda ledger: ledger.reserve("r1", 250)),
    "settle": (hold, lambda ledger: ledger.apply([SettleJob("r1", 60)])),
    "settle twice": (hold, lambda ledger: ledger.apply([SettleJob("r1", 60), SettleJob("r1", 60)])),
    "refund": (hold, lambda ledger: ledger.apply([RefundJob("r1")])),
    "subscription": (
        lambda ledger: hold(ledger, "r1", "subscription_only"),
        lambda ledger: ledger.apply([SettleJob("r1", 60)]),
    ),
    "top-up": (lambda ledger: ledger.top_up(user_id=1, quota=70, reference="t1"),),
}


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("life", [each for each in LIVES if each != "top-up"])
def test_a_shadow_moves_nothing_and_so_keeps_no_delta(engine: Engine, clock: Clock, life: str) -> None:
    shadow = Ledger(engine, replace(POLICY, shadow=True), clock)
    for step in LIVES[life]:
        step(shadow)
    assert (sums(engine), wallet(engine), token(engine)) == ((0, 0), WEALTH, WEALTH)
    with engine.connect() as connection:
        assert set(connection.scalars(select(billing_ledger.c.shadow))) == {True}


@pytest.mark.parametrize("life", LIVES)
def test_the_deltas_of_every_flow_are_what_the_balances_moved_by(engine: Engine, ledger: Ledger, life: str) -> None:
    for step in LIVES[life]:
        step(ledger)
    assert sums(engine) == (wallet(engine) - WEALTH, token(engine) - WEALTH)
    assert sums(engine) != (0, 0) or life == "refund"


def test_holds_that_expire_and_intents_that_are_swept_leave_theirs_too(
    engine: Engine, ledger: Ledger, clock: Clock
) -> None:
    hold(ledger)
    hold(ledger, "r2")
    ledger.intend([SettleJob("r2", 40)])
    clock.at = 7_200
    assert (ledger.apply_intents(), ledger.expire_holds()) == (1, 1)
    assert sums(engine) == (-40, -40)


def test_what_is_refused_leaves_none(engine: Engine, ledger: Ledger) -> None:
    with pytest.raises(InsufficientUserQuota):
        ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=WEALTH + 1, preference="wallet_only")
    assert sums(engine) == (0, 0)


def test_none_are_kept_where_the_policy_does_not_ask_for_them(engine: Engine, ledger: Ledger, clock: Clock) -> None:
    hold(Ledger(engine, Policy(trust_quota=0), clock))
    assert (wallet(engine), sums(engine)) == (WEALTH - 100, (0, 0))


def test_a_delta_that_cant_be_kept_takes_its_movement_back(engine: Engine, ledger: Ledger) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE billing_cache_deltas")
    with pytest.raises(BillingError):
        hold(ledger)
    assert (wallet(engine), token(engine)) == (WEALTH, WEALTH)
    with engine.connect() as connection:
        assert connection.execute(select(billing_ledger.c.id)).all() == []


def test_what_is_claimed_is_claimed_once_and_names_what_the_cache_must_say(engine: Engine, ledger: Ledger) -> None:
    hold(ledger)
    hold(ledger, "r2")
    first = ledger.run(flow.claim, 2)
    assert [(each.account_type, each.amount) for each in first.deltas] == [
        (AccountType.TOKEN, -100),
        (AccountType.WALLET, -100),
    ]
    assert first.keys == {1: "sk-1"}
    # Of r2 nothing is claimed yet, so no cache can have it.
    assert first.balances == {(AccountType.WALLET, 1): WEALTH - 100, (AccountType.TOKEN, 1): WEALTH - 100}
    second = ledger.run(flow.claim, LIMIT)
    assert second.balances == {(AccountType.WALLET, 1): WEALTH - 200, (AccountType.TOKEN, 1): WEALTH - 200}
    assert ledger.run(flow.claim, LIMIT).deltas == ()
    ledger.run(flow.close, [each.id for each in (*first.deltas, *second.deltas)])
    assert sums(engine) == (0, 0)


def test_what_was_claimed_and_never_closed_is_given_up_as_uncertain(
    engine: Engine, ledger: Ledger, clock: Clock
) -> None:
    hold(ledger)
    claimed = ledger.run(flow.claim, LIMIT)
    clock.at = UNCERTAIN_MS / 1000
    assert ledger.run(flow.claim, LIMIT).uncertain == ()
    clock.at += 1
    given_up = ledger.run(flow.claim, LIMIT)
    assert (given_up.deltas, given_up.uncertain) == ((), claimed.deltas)
    assert sums(engine) == (0, 0)


def test_what_nobody_claimed_in_time_is_late(engine: Engine, ledger: Ledger, clock: Clock) -> None:
    hold(ledger)
    clock.at = LATE_MS / 1000 + 1
    hold(ledger, "r2")
    claim = ledger.run(flow.claim, LIMIT)
    assert (claim.late, len(claim.deltas)) == (2, 2)
    assert sums(engine) == (-100, -100)


def test_the_cache_of_a_token_that_is_gone_has_no_name(engine: Engine, ledger: Ledger) -> None:
    hold(ledger)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM tokens")
    claim = ledger.run(flow.claim, LIMIT)
    assert (claim.keys, len(claim.deltas)) == ({}, 2)
