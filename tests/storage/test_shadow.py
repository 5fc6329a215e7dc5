"""Shadow: everything is judged and written down, nothing is moved; each session keeps the kind it began as (§13)."""

import random
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from relay_billing import (
    InsufficientUserQuota,
    InvalidRequest,
    Ledger,
    Outcome,
    PreConsume,
    RefundJob,
    SettleJob,
)
from relay_billing.schema import (
    billing_webhooks,
)
from relay_billing.store.account_shapes import OWN, AccountShape
from relay_billing.store.account_statements import account_statements
from tests.fixtures.accounts import START, Clock, given, states, used, wallet
from tests.fixtures.shadows import DAY_S, REAL, SHADOW, WEALTH, Ledgers, accounts_of, ask, hold, rows


def test_a_life_in_shadow_is_judged_and_written_down_and_moves_nothing(ledgers: Ledgers, peopled: Engine) -> None:
    before, ledger = accounts_of(peopled), ledgers(SHADOW)
    held = ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=600, preference="wallet_only")
    assert (held.shadow, held.pre_consumed_quota, held.user_quota) == (True, 600, WEALTH)
    assert held == ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=600, preference="wallet_only")
    assert ledger.reserve("r1", 800).pre_consumed_quota == 800
    hold(ledger, "r2")
    ledger.intend([SettleJob("r1", 700)])
    jobs: list[SettleJob | RefundJob] = [SettleJob("r1", 700), RefundJob("r2"), SettleJob("r1", 700)]
    assert ledger.apply(jobs) == [Outcome.APPLIED, Outcome.APPLIED, Outcome.DUPLICATE]
    assert states(peopled) == {"r1": "settled", "r2": "refunded"}
    assert accounts_of(peopled) == before
    written = rows(peopled, "billing_ledger")["billing_ledger"]
    assert all(row["shadow"] for row in written)
    of_wallet = [(r["kind"], r["amount"], r["balance_after"]) for r in written if r["account_type"] == "wallet"]
    assert of_wallet == [
        ("pre_consume", -600, WEALTH - 600),
        ("reserve", -200, WEALTH - 200),
        ("pre_consume", -100, WEALTH - 100),
        ("settle", 100, WEALTH + 100),
        ("refund", 100, WEALTH + 100),
    ]
    assert ledger.reconcile() == []


def test_holds_in_shadow_do_not_see_each_other(ledgers: Ledgers, peopled: Engine) -> None:
    """The relay's own billing moves the balance already."""
    hold(ledgers(SHADOW), *(f"r{number}" for number in range(5)), quota=WEALTH - 1)
    assert wallet(peopled) == WEALTH


def test_a_refusal_in_shadow_leaves_a_trace_and_no_session(ledgers: Ledgers, peopled: Engine) -> None:
    before, ledger = accounts_of(peopled), ledgers(SHADOW)
    asked = {"request_id": "r1", "user_id": 1, "token_id": 1, "quota": WEALTH + 1, "model_name": "m"}
    with pytest.raises(InsufficientUserQuota):
        ledger.pre_consume(**asked)  # type: ignore[arg-type]
    ledger.pre_consume_many([ask("r2", quota=10**9), ask("r3"), PreConsume("r4", 1, 2, 5), PreConsume("r5", 9, 1, 5)])
    found = [
        (row["request_id"], row["user_id"], row["quota"], row["code"], row["funds"], row["created_at"])
        for row in rows(peopled, "billing_shadow_refusals")["billing_shadow_refusals"]
    ]
    assert found == [
        ("r1", 1, WEALTH + 1, "insufficient_user_quota", WEALTH, START * 1000),
        ("r2", 1, 10**9, "insufficient_user_quota", WEALTH, START * 1000),
        ("r4", 1, 5, "pre_consume_token_quota_failed", WEALTH, START * 1000),
        ("r5", 9, 5, "query_data_error", None, START * 1000),
    ]
    assert states(peopled) == {"r3": "preconsumed"}
    assert ledger.pre_consume(**{**asked, "quota": 5}).pre_consumed_quota == 5  # type: ignore[arg-type]
    assert accounts_of(peopled) == before


def test_a_refusal_that_is_no_shadows_leaves_no_trace(ledgers: Ledgers, peopled: Engine) -> None:
    (refused,) = ledgers(REAL).pre_consume_many([ask("r1", quota=10**9)])
    assert isinstance(refused, InsufficientUserQuota)
    assert rows(peopled, "billing_shadow_refusals")["billing_shadow_refusals"] == []


def test_subscriptions_are_judged_with_their_due_reset_and_not_turned(ledgers: Ledgers, peopled: Engine) -> None:
    before, ledger = accounts_of(peopled), ledgers(SHADOW)
    first, second = (
        ledger.pre_consume(request_id=each, user_id=2, token_id=2, quota=1_500, preference="subscription_only")
        for each in ("s1", "s2")
    )
    assert (
        first.subscription_amount_used_after_pre_consume == second.subscription_amount_used_after_pre_consume == 1_500
    )
    assert ledger.reset_subscriptions() == 0
    assert ledger.apply([SettleJob("s1", 1_000), RefundJob("s2")]) == [Outcome.APPLIED] * 2
    assert accounts_of(peopled) == before
    assert {row["kind"] for row in rows(peopled, "billing_ledger")["billing_ledger"]} == {
        "pre_consume",
        "settle",
        "refund",
    }
    assert ledgers(REAL).reset_subscriptions() == 2
    assert used(peopled) == 0


def test_a_shadow_announces_no_low_wallet(ledgers: Ledgers, peopled: Engine) -> None:
    announcing = {"announce": True, "wallet_low_quota": WEALTH - 50}
    hold(ledgers(replace(SHADOW, **announcing)), "s1", quota=WEALTH)  # type: ignore[arg-type]
    assert rows(peopled, billing_webhooks.name)[billing_webhooks.name] == []
    hold(ledgers(replace(REAL, **announcing)), "r1")  # type: ignore[arg-type]
    assert len(rows(peopled, billing_webhooks.name)[billing_webhooks.name]) == 1


def test_nobody_tops_up_a_wallet_in_shadow(ledgers: Ledgers, peopled: Engine) -> None:
    with pytest.raises(InvalidRequest, match="BILLING_SHADOW"):
        ledgers(SHADOW).top_up(user_id=1, quota=5, reference="p1")
    assert wallet(peopled) == WEALTH


def test_a_shadow_neither_waits_for_the_relays_locks_nor_makes_it_wait(server: Engine) -> None:
    given(server, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    ledger = Ledger(server, SHADOW, Clock())
    with server.begin() as relay:
        relay.exec_driver_sql("UPDATE users SET quota = quota - 7")
        relay.exec_driver_sql("UPDATE tokens SET remain_quota = remain_quota - 7")
        hold(ledger, "s1", "s2")
        ledger.reserve("s1", 200)
        assert ledger.apply([SettleJob("s1", 70), RefundJob("s2")]) == [Outcome.APPLIED] * 2
    hold(ledger, "s3")
    assert wallet(server) == WEALTH - 7


def _batch(ledger: Ledger, chance: random.Random, names: list[str], clock: Clock) -> None:
    """One random step of a relay and its workers."""
    some = [chance.choice(names) for _ in range(chance.randrange(1, 6))]
    preferences = ("wallet_first", "subscription_first", "subscription_only", "wallet_only")
    match chance.randrange(8):
        case 0 | 1 | 2:
            ledger.pre_consume_many(
                [
                    ask(each, chance.choice((1, 2)), chance.choice((0, 50, 900, 20_000)), preference=preference)
                    for each in dict.fromkeys(some)
                    for preference in [chance.choice(preferences)]
                ]
            )
        case 3 | 4:
            ends = (lambda of: SettleJob(of, chance.randrange(3_000)), RefundJob)
            ledger.apply([chance.choice(ends)(each) for each in some])
        case 5:
            ledger.intend([SettleJob(each, chance.randrange(3_000)) for each in some])
            ledger.apply_intents()
        case 6:
            known = sorted(states(ledger._engine))
            if known:
                try:
                    ledger.reserve(chance.choice(known), chance.randrange(2_000))
                except InsufficientUserQuota:
                    # Refused as it may be: what matters is that nothing moves.
                    return
        case 7:
            clock.at += chance.choice((1, 70, DAY_S))
            ledger.expire_holds()
            ledger.reset_subscriptions()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_life_in_shadow_changes_no_byte_of_the_account_tables(
    ledgers: Ledgers, peopled: Engine, seed: int
) -> None:
    chance, before = random.Random(seed), accounts_of(peopled)
    clock = ledgers.clock
    shadowed = ledgers(replace(SHADOW, trust_quota=chance.choice((0, 2_000)), announce=True))
    names = [f"r{number}" for number in range(30)]
    for _ in range(60):
        _batch(shadowed, chance, names, clock)
        assert accounts_of(peopled) == before
    assert len(set(states(peopled).values())) >= 3
    # After the switch everything that is open ends, and still nothing has moved.
    real = ledgers(REAL)
    real.apply([SettleJob(each, 11) for each in states(peopled)])
    assert accounts_of(peopled) == before
    assert real.reconcile() == []


@pytest.mark.parametrize("shape", [OWN, AccountShape(foreign=True, external=True)])
def test_the_statements_of_a_shadow_lock_no_account(postgresql: Engine, shape: AccountShape) -> None:
    """Their locks would make a relay's updates wait, or be ended as a deadlock."""
    made = account_statements(shape)
    read, locks = (*made.reading, *made.reading_of), (*made.locking, *made.locking_of)
    for reading, locking in zip(read, locks, strict=True):
        sent = str(reading.compile(postgresql))
        assert "FOR NO KEY UPDATE" not in sent
        assert str(locking.compile(postgresql)) == f"{sent} FOR NO KEY UPDATE"
