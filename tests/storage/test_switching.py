"""Shadow sessions among others: each keeps the kind it began as, whatever the setting says by then (§13)."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, update

from relay_billing import (
    Outcome,
    RefundJob,
    SettleJob,
)
from relay_billing.domain.choices import HoldExpiry
from relay_billing.flows import accounts, dead_letters, shadow
from relay_billing.flows.dead_letters import Filter
from relay_billing.schema import (
    billing_sessions,
    users,
)
from tests.fixtures.accounts import START, states, token, wallet
from tests.fixtures.shadows import DAY_S, REAL, SHADOW, WEALTH, Ledgers, accounts_of, ask, hold, rows


def test_a_sessions_own_mark_decides_and_not_the_setting(ledgers: Ledgers, peopled: Engine) -> None:
    shadowed, real = ledgers(SHADOW), ledgers(REAL)
    hold(shadowed, "s1", "s2", "s3", "s4")
    hold(shadowed, "s5", user_id=2, preference="subscription_only")
    before = accounts_of(peopled)
    # Switched over, with shadow sessions open: whatever ends them moves nothing.
    hold(real, "r1", "r2", "r3", "r4")
    after_holds = accounts_of(peopled)
    assert after_holds != before
    assert (wallet(peopled), token(peopled)) == (WEALTH - 400, WEALTH - 400)
    done = real.apply([SettleJob("s1", 70), RefundJob("s2"), SettleJob("s5", 90)])
    assert done == [Outcome.APPLIED] * 3
    assert real.reserve("s3", 500).pre_consumed_quota == 500
    assert accounts_of(peopled) == after_holds
    # In one batch with others, each as it began.
    assert real.apply([SettleJob("s3", 80), SettleJob("r1", 80), RefundJob("r2")]) == [Outcome.APPLIED] * 3
    assert (wallet(peopled), token(peopled)) == (WEALTH - 280, WEALTH - 280)
    # Switched back: what was held for real is settled for real, in a batch and alone.
    mixed = shadowed.apply([SettleJob("s4", 60), SettleJob("r3", 60)])
    assert mixed == [Outcome.APPLIED] * 2
    assert shadowed.apply([RefundJob("r4")]) == [Outcome.APPLIED]
    assert (wallet(peopled), token(peopled)) == (WEALTH - 140, WEALTH - 140)
    assert rows(peopled, "users")["users"][0]["request_count"] == 3
    assert real.reconcile() == shadowed.reconcile() == []


@pytest.mark.parametrize("expiry", HoldExpiry)
def test_shadow_sessions_expire_as_others_do_whatever_the_setting_says_by_then(
    ledgers: Ledgers, peopled: Engine, expiry: HoldExpiry
) -> None:
    hold(ledgers(SHADOW), "s1", "s2")
    before = accounts_of(peopled)
    for number, policy in enumerate((SHADOW, REAL), 1):
        ledgers.clock.at = 120.0 * number
        closed = ledgers(replace(policy, hold_expiry=expiry)).sweep_holds()
        assert (closed.holds, closed.quota) == ((2, 0) if number == 1 else (0, 0))
    state = "expired" if expiry is HoldExpiry.RELEASE else "settled"
    assert states(peopled) == {"s1": state, "s2": state}
    if expiry is HoldExpiry.RELEASE:
        assert ledgers(REAL).apply([SettleJob("s1", 40), RefundJob("s2")]) == [Outcome.LATE, Outcome.APPLIED]
    assert accounts_of(peopled) == before
    assert ledgers(REAL).reconcile() == []


def test_intents_of_shadow_sessions_are_swept_and_move_nothing(ledgers: Ledgers, peopled: Engine) -> None:
    hold(ledgers(SHADOW), "s1", "s2")
    before = accounts_of(peopled)
    for name, policy in (("s1", SHADOW), ("s2", REAL)):
        ledger = ledgers(policy)
        ledger.intend([SettleJob(name, 40)])
        assert (ledger.overview().intents.count, ledger.overview().intents.quota) == (1, 0)
        ledgers.clock.at += 1
        assert ledger.apply_intents() == 1
    assert accounts_of(peopled) == before
    assert set(states(peopled).values()) == {"settled"}


def test_open_trusted_sessions_are_counted_among_their_own_kind(ledgers: Ledgers, peopled: Engine) -> None:
    bounded = {"trust_quota": 500, "trust_max_inflight": 1}
    shadowed, real = ledgers(replace(SHADOW, **bounded)), ledgers(replace(REAL, **bounded))  # type: ignore[arg-type]
    trusted = []
    for ledger, names in ((shadowed, ("s1", "s2")), (real, ("r1", "r2"))):
        for name in names:
            session = ledger.pre_consume(request_id=name, user_id=1, token_id=1, quota=5, preference="wallet_only")
            trusted.append(session.trusted)
    assert trusted == [True, False, True, False]
    assert wallet(peopled) == WEALTH - 5


def test_nobodys_totals_have_shadow_sessions_in_them(ledgers: Ledgers, peopled: Engine) -> None:
    hold(ledgers(REAL), "r1")
    hold(ledgers(SHADOW), "s1", "s2", quota=900)
    ledger = ledgers(REAL)
    assert (ledger.overview().holds.count, ledger.overview().holds.quota) == (1, 100)
    found = ledger.read(accounts.account, 1)
    assert found is not None
    assert (found.holds, found.held, len(found.open_sessions)) == (1, 100, 1)
    assert [each.request_id for each in found.movements] == ["r1"]


def test_a_purge_carries_nothing_of_a_shadow_forward(ledgers: Ledgers, peopled: Engine) -> None:
    shadowed, real = ledgers(SHADOW), ledgers(REAL)
    hold(shadowed, "s1", "s2")
    shadowed.pre_consume_many([ask("s3", quota=10**9)])
    # The relay's own billing goes on between them.
    with peopled.begin() as connection:
        connection.execute(update(users).values(quota=users.c.quota - 333))
    hold(real, "r1")
    hold(shadowed, "s4")
    real.apply([SettleJob("s1", 5), SettleJob("r1", 70), RefundJob("s4")])
    ledgers.clock.at = 3 * DAY_S
    assert real.purge(DAY_S) == 3
    kept = rows(peopled, "billing_ledger")["billing_ledger"]
    openings = {r["account_type"]: r["amount"] for r in kept if r["kind"] == "opening"}
    assert openings == {"wallet": WEALTH - 333 - 70, "token": WEALTH - 70}
    assert {r["request_id"] for r in kept if r["shadow"]} == {"s2"}
    assert real.reconcile() == []
    assert real.run_in_batches(shadow.purge, (START + 2 * DAY_S) * 1000) == 1


def test_reconcile_looks_at_no_account_that_only_a_shadow_has_judged(ledgers: Ledgers, peopled: Engine) -> None:
    hold(ledgers(SHADOW), "s1")
    with peopled.begin() as connection:
        connection.execute(update(users).values(quota=users.c.quota - 333))
    assert ledgers(REAL).reconcile() == []
    hold(ledgers(REAL), "r1")
    with peopled.begin() as connection:
        connection.execute(update(users).values(quota=users.c.quota - 5))
    assert [(each.what, each.difference) for each in ledgers(REAL).reconcile()] == [("wallet", -5)]


@pytest.mark.parametrize("name", ["s1", "r1"])
def test_a_session_whose_rows_have_the_other_mark_is_a_drift(ledgers: Ledgers, peopled: Engine, name: str) -> None:
    hold(ledgers(SHADOW), "s1")
    hold(ledgers(REAL), "r1")
    c = billing_sessions.c
    with peopled.begin() as connection:
        connection.execute(update(billing_sessions).where(c.request_id == name).values(shadow=~c.shadow))
    found = {(each.what, each.id) for each in ledgers(REAL).reconcile()}
    assert found == {("session", name), ("session token", name)}


def test_a_shadows_dead_letters_are_replayed_and_written_off_and_move_nothing(
    ledgers: Ledgers, peopled: Engine
) -> None:
    before, shadowed, real = accounts_of(peopled), ledgers(SHADOW), ledgers(REAL)
    hold(shadowed, "s1", "s2")
    huge = REAL.max_settle_quota + 1
    assert shadowed.apply([SettleJob("s1", huge), SettleJob("s2", huge)]) == [Outcome.PARKED] * 2
    first, second = real.read(dead_letters.find, Filter())
    wide = ledgers(replace(REAL, max_settle_quota=0))
    assert wide.run(dead_letters.replay, first.id).resolved
    assert "went back" not in real.run(dead_letters.write_off, second.id, "a test").detail
    assert states(peopled) == {"s1": "settled", "s2": "refunded"}
    assert accounts_of(peopled) == before
    assert all(row["shadow"] for row in rows(peopled, "billing_ledger")["billing_ledger"])
