"""What an operator does about jobs that could not be applied."""

import pytest
from sqlalchemy import Engine, select

from relay_billing import InvalidRequest, Ledger, Outcome, Policy, RefundJob, SettleJob
from relay_billing.domain.dead_letters import Letter
from relay_billing.flows import dead_letters, settlements
from relay_billing.flows.dead_letters import Filter
from relay_billing.schema import billing_ledger
from tests.fixtures.accounts import Clock, given, states, token, wallet

WEALTH = 1_000_000_000
HUGE = 600_000_000


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    given(
        engine,
        user=[{"id": 1, "quota": WEALTH}, {"id": 2, "quota": WEALTH}],
        token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}, {"id": 2, "user_id": 2, "remain_quota": WEALTH}],
    )
    return Ledger(engine, Policy(trust_quota=0), Clock())


def hold(ledger: Ledger, request_id: str, user_id: int = 1) -> None:
    ledger.pre_consume(request_id=request_id, user_id=user_id, token_id=user_id, quota=100)


def parked(ledger: Ledger, request_id: str = "r1", user_id: int = 1) -> int:
    """Park one session; the id of its letter."""
    hold(ledger, request_id, user_id)
    assert ledger.apply([SettleJob(request_id, HUGE)]) == [Outcome.PARKED]
    return ledger.read(dead_letters.find, Filter())[-1].id


def test_a_replay_under_the_same_policy_leaves_the_letter_open(ledger: Ledger) -> None:
    letter = parked(ledger)
    answer = ledger.run(dead_letters.replay, letter)
    assert not answer.resolved
    assert "implausible_amount" in answer.detail
    (kept,) = ledger.read(dead_letters.find, Filter())
    assert (kept.deliveries, kept.quota, kept.user_id) == (2, HUGE, 1)


def test_a_replay_under_another_policy_charges_once_however_often_it_is_repeated(
    ledger: Ledger, engine: Engine
) -> None:
    letter = parked(ledger)
    generous = Ledger(engine, Policy(trust_quota=0, max_settle_quota=0), Clock())
    assert [generous.run(dead_letters.replay, letter).resolved for _ in range(3)] == [True] * 3
    assert wallet(engine) == token(engine) == WEALTH - HUGE
    assert states(engine) == {"r1": "settled"}
    assert generous.read(dead_letters.find, Filter()) == []
    assert generous.reconcile() == []


def test_a_write_off_gives_the_parked_hold_back_and_the_ledger_says_why(ledger: Ledger, engine: Engine) -> None:
    letter = parked(ledger)
    assert ledger.run(dead_letters.write_off, letter, "goodwill").resolved
    assert ledger.run(dead_letters.write_off, letter, "once more").detail == "it was written_off before"
    assert wallet(engine) == token(engine) == WEALTH
    assert states(engine) == {"r1": "refunded"}
    c = billing_ledger.c
    with engine.connect() as connection:
        rows = connection.execute(select(c.kind, c.amount, c.note).where(c.request_id == f"writeoff:{letter}")).all()
    assert [tuple(row) for row in rows] == [("adjust", 0, "goodwill")]
    assert ledger.reconcile() == []


def test_a_write_off_of_a_conflict_moves_nothing(ledger: Ledger, engine: Engine) -> None:
    hold(ledger, "r1")
    ledger.apply([RefundJob("r1"), SettleJob("r1", 70)])
    (letter,) = ledger.read(dead_letters.find, Filter())
    assert letter.reason == "conflict"
    assert not ledger.run(dead_letters.replay, letter.id).resolved
    assert ledger.run(dead_letters.write_off, letter.id, "the relay had asked for both").resolved
    assert wallet(engine) == WEALTH
    assert ledger.reconcile() == []


def test_a_letter_of_an_unknown_session_is_replayed_once_the_session_is_there(ledger: Ledger, engine: Engine) -> None:
    (answer,) = ledger.run(settlements.apply, [SettleJob("late", 40)])
    ledger.run(dead_letters.keep, [Letter.of_unknown(answer)])
    (letter,) = ledger.read(dead_letters.find, Filter())
    assert not ledger.run(dead_letters.replay, letter.id).resolved
    hold(ledger, "late")
    assert ledger.run(dead_letters.replay, letter.id).resolved
    assert wallet(engine) == WEALTH - 40


def test_what_is_no_job_is_kept_and_can_only_be_written_off(ledger: Ledger) -> None:
    body = {"request_id": "x\x00", "half": "\ud800", "actual_quota": -1}
    ledger.run(dead_letters.keep, [Letter.of_message("billing.settle", body, "NUL \x00 in it")])
    (letter,) = ledger.read(dead_letters.find, Filter())
    assert "actual_quota" in letter.job
    assert not ledger.run(dead_letters.replay, letter.id).resolved
    assert ledger.run(dead_letters.write_off, letter.id, "not ours").resolved
    assert ledger.reconcile() == []


def test_letters_are_found_by_reason_user_age_and_amount(ledger: Ledger) -> None:
    first, second = parked(ledger, "r1"), parked(ledger, "r2", user_id=2)
    hold(ledger, "r3")
    ledger.apply([RefundJob("r3"), SettleJob("r3", 5)])
    third = ledger.read(dead_letters.find, Filter())[-1].id
    assert _ids(ledger, Filter(reason="conflict")) == [third]
    assert _ids(ledger, Filter(user_id=2)) == [second]
    assert _ids(ledger, Filter(at_least=6)) == [first, second]
    assert _ids(ledger, Filter(before_ms=0)) == []
    assert _ids(ledger, Filter(limit=1)) == [first]
    ledger.run(dead_letters.write_off, third, "done")
    assert _ids(ledger, Filter()) == [first, second]
    assert _ids(ledger, Filter(resolved=True)) == [third]
    assert _ids(ledger, Filter(resolved=None)) == [first, second, third]


def _ids(ledger: Ledger, chosen: Filter) -> list[int]:
    return [each.id for each in ledger.read(dead_letters.find, chosen)]


def test_only_letters_that_were_dealt_with_are_purged(ledger: Ledger) -> None:
    first, second = parked(ledger, "r1"), parked(ledger, "r2")
    ledger.run(dead_letters.write_off, first, "done")
    assert ledger.run_in_batches(dead_letters.purge, 2**60) == 1
    assert _ids(ledger, Filter(resolved=None)) == [second]


def test_a_letter_that_comes_again_after_it_was_dealt_with_is_open_again(ledger: Ledger) -> None:
    hold(ledger, "r1")
    ledger.apply([RefundJob("r1"), SettleJob("r1", 5)])
    (letter,) = ledger.read(dead_letters.find, Filter())
    ledger.run(dead_letters.write_off, letter.id, "done")
    ledger.apply([SettleJob("r1", 5)])
    assert _ids(ledger, Filter()) == [letter.id]


@pytest.mark.parametrize(("letter", "reason", "field"), [(0, "why", "id"), (1, "", "reason"), (1, "x" * 256, "reason")])
def test_a_write_off_needs_an_id_and_a_reason(ledger: Ledger, letter: int, reason: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ledger.run(dead_letters.write_off, letter, reason)
    assert refused.value.field == field
