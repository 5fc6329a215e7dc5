"""Clients choose request ids: whatever they are called, the ledger's own rows stay apart from theirs."""

import pytest
from sqlalchemy import Engine, select, update

from relay_billing import InvalidRequest, Ledger, Policy, RefundJob, SettleJob
from relay_billing.flows import dead_letters, history
from relay_billing.flows.dead_letters import Filter
from relay_billing.schema import billing_ledger, user_subscriptions
from tests.fixtures.accounts import START, Clock, given, states, used, wallet
from tests.fixtures.names import NASTY

DAY_S = 86_400
WEALTH = 1_000_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(engine: Engine, clock: Clock) -> Ledger:
    given(
        engine,
        user=[{"id": 1, "quota": WEALTH}],
        token=[{"id": 1, "user_id": 1, "unlimited_quota": True}],
        plan=[{"id": 1, "title": "daily", "quota_reset_period": "daily"}],
        subscription=[
            {"id": 1, "user_id": 1, "plan_id": 1, "amount_total": 9_000, "start_time": START, "end_time": START * 2}
        ],
    )
    return Ledger(engine, Policy(trust_quota=0, hold_ttl=90 * DAY_S), clock)


def hold(ledger: Ledger, request_id: str, preference: str = "wallet_only") -> None:
    ledger.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100, preference=preference)


def rows(engine: Engine, request_id: str) -> list[tuple[str, int]]:
    c = billing_ledger.c
    found = select(c.kind, c.amount).where(c.request_id == request_id, c.account_type == "wallet").order_by(c.id)
    with engine.connect() as connection:
        return [(kind, amount) for kind, amount in connection.execute(found)]


def test_a_session_called_opening_keeps_its_rows_through_every_purge(
    ledger: Ledger, engine: Engine, clock: Clock
) -> None:
    hold(ledger, "opening")
    for day in (1, 3):
        clock.at = day * DAY_S
        hold(ledger, f"old-{day}")
        ledger.apply([SettleJob(f"old-{day}", 80)])
        clock.at += DAY_S + 1
        assert ledger.purge(DAY_S) == 1
        owned = [row for row in rows(engine, "opening") if row[0] != "opening"]
        assert owned == [("pre_consume", -100)]
        assert ledger.reconcile() == []
    assert ledger.apply([SettleJob("opening", 70)])[0].value == "applied"
    assert wallet(engine) == WEALTH - 2 * 80 - 70
    clock.at += 2 * DAY_S
    assert ledger.purge(DAY_S) == 1
    assert ledger.reconcile() == []


def test_a_purge_leaves_an_open_session_that_is_called_as_a_forfeit_of_a_purged_one(
    ledger: Ledger, engine: Engine, clock: Clock
) -> None:
    hold(ledger, "r1", "subscription_only")
    clock.at = DAY_S
    ledger.reset_subscriptions()
    ledger.apply([RefundJob("r1")])
    hold(ledger, "forfeit:r1")
    clock.at = 3 * DAY_S
    assert ledger.purge(DAY_S) == 1
    assert states(engine) == {"forfeit:r1": "preconsumed"}
    assert rows(engine, "forfeit:r1") == [("pre_consume", -100)]
    ledger.apply([RefundJob("forfeit:r1")])
    assert wallet(engine) == WEALTH
    assert ledger.reconcile() == []


def test_a_story_tells_no_rows_of_a_name_that_is_not_the_sessions(ledger: Ledger, engine: Engine, clock: Clock) -> None:
    ledger.top_up(user_id=1, quota=5, reference="payment-1")
    hold(ledger, "r1", "subscription_only")
    clock.at = DAY_S
    ledger.reset_subscriptions()
    ledger.apply([RefundJob("r1")])
    for name in ("forfeit:r1", "topup:payment-1", "opening"):
        assert ledger.read(history.story, name).entries == ()
        hold(ledger, name)
        assert {entry.kind for entry in ledger.read(history.story, name).entries} == {"pre_consume"}
    kinds = [entry.kind for entry in ledger.read(history.story, "r1").entries if entry.account_type == "subscription"]
    assert kinds == ["pre_consume", "refund", "adjust"]


def test_a_dead_letter_that_is_met_again_can_be_written_off_again(ledger: Ledger) -> None:
    hold(ledger, "r1")
    ledger.apply([SettleJob("r1", 900_000_000)])
    (letter,) = ledger.read(dead_letters.find, Filter())
    assert ledger.run(dead_letters.write_off, letter.id, "goodwill").resolved
    for word in ("again", "and again"):
        assert ledger.apply([SettleJob("r1", 5)])[0].value == "conflict"
        (conflict,) = ledger.read(dead_letters.find, Filter())
        assert ledger.run(dead_letters.write_off, conflict.id, word).resolved
    assert ledger.read(dead_letters.find, Filter()) == []
    notes = [entry.note for entry in ledger.read(history.story, "r1").entries if entry.kind == "adjust"]
    assert notes == ["goodwill", "again", "and again"]
    assert ledger.reconcile() == []


def test_a_calendar_that_was_set_back_by_hand_resets_once_more(ledger: Ledger, engine: Engine, clock: Clock) -> None:
    hold(ledger, "r1", "subscription_only")
    clock.at = DAY_S
    assert ledger.reset_subscriptions() == 1
    with engine.begin() as connection:
        back = {"last_reset_time": 0, "next_reset_time": 0}
        connection.execute(update(user_subscriptions).values(back))
    clock.at += 60
    hold(ledger, "r2", "subscription_only")
    with engine.begin() as connection:
        connection.execute(update(user_subscriptions).values(back))
    clock.at += 60
    hold(ledger, "r3", "subscription_only")
    assert used(engine) == 100
    assert ledger.reconcile() == []


@pytest.mark.parametrize("name", NASTY)
def test_any_text_may_be_a_request_id(ledger: Ledger, engine: Engine, name: str) -> None:
    hold(ledger, name)
    hold(ledger, name)
    assert ledger.reserve(name, 150).pre_consumed_quota == 150
    ledger.intend([SettleJob(name, 120)])
    assert ledger.apply([SettleJob(name, 120), SettleJob(name, 120)])[1].value == "duplicate"
    assert (ledger.get(name).request_id, states(engine)) == (name, {name: "settled"})
    assert wallet(engine) == WEALTH - 120
    assert [
        entry.request_id for entry in Ledger(engine).read(history.story, name).entries if entry.account_type == "wallet"
    ] == [name] * 3
    assert ledger.reconcile() == []


@pytest.mark.parametrize("name", ["a\x00b", "\ud800", "", "x" * 65])
def test_what_a_database_cannot_keep_is_refused(ledger: Ledger, name: str) -> None:
    with pytest.raises(InvalidRequest, match="request_id"):
        hold(ledger, name)
    assert ledger.read(dead_letters.find, Filter()) == []
