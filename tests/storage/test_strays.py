"""Jobs whose session is not there yet are kept in the database: whatever a broker loses, they come to an end."""

import pytest
from sqlalchemy import Engine, func, select

from relay_billing import Ledger, Outcome, Policy, RefundJob, SettleJob
from relay_billing.flows import dead_letters, heartbeats, strays
from relay_billing.flows.dead_letters import Filter
from relay_billing.flows.strays import LONGEST_PAUSE_S
from relay_billing.schema import billing_strays, billing_webhooks
from tasks.job_task import BACKOFF_S
from tests.fixtures.accounts import START, Clock, given, states, wallet

WEALTH = 1_000
GRACE_S = 5
POLICY = Policy(trust_quota=0, intent_grace=GRACE_S)
JOBS = (SettleJob("late", 60), RefundJob("nobody"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(engine: Engine, clock: Clock) -> Ledger:
    given(engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    return Ledger(engine, POLICY, clock)


def kept(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(billing_strays)).scalar_one())


def test_a_stray_is_left_alone_while_its_message_may_come(ledger: Ledger, engine: Engine, clock: Clock) -> None:
    ledger.run(strays.keep, JOBS)
    clock.at = LONGEST_PAUSE_S + GRACE_S
    assert ledger.sweep(strays.sweep).total() == 0
    # It came, and the jobs wait for the next one.
    ledger.run(strays.keep, JOBS)
    clock.at = 2 * (LONGEST_PAUSE_S + GRACE_S)
    assert ledger.sweep(strays.sweep).total() == 0
    assert kept(engine) == len(JOBS)


def test_a_stray_whose_message_is_lost_is_applied_or_buried_once(ledger: Ledger, engine: Engine, clock: Clock) -> None:
    ledger.run(strays.keep, JOBS)
    ledger.pre_consume(request_id="late", user_id=1, token_id=1, quota=100)
    clock.at = LONGEST_PAUSE_S + GRACE_S + 1
    told: list[str] = []
    outcomes = ledger.sweep(strays.sweep, lambda answer: told.append(answer.job.request_id))
    assert outcomes == {Outcome.APPLIED: 1, Outcome.UNKNOWN_SESSION: 1}
    assert sorted(told) == ["late", "nobody"]
    assert states(engine) == {"late": "settled"}
    assert wallet(engine) == WEALTH - 60
    assert [(each.reason, each.request_id) for each in ledger.read(dead_letters.find, Filter())] == [
        ("unknown_session", "nobody")
    ]
    assert kept(engine) == 0
    assert ledger.sweep(strays.sweep).total() == 0
    assert ledger.reconcile() == []


def test_a_stray_that_came_to_an_end_is_forgotten_and_its_neighbour_stays(ledger: Ledger, engine: Engine) -> None:
    ledger.run(strays.keep, JOBS)
    ledger.run(strays.forget, [SettleJob("late", 60)])
    assert kept(engine) == 1


def test_a_stray_that_is_buried_is_told_of(engine: Engine, clock: Clock) -> None:
    ledger = Ledger(engine, Policy(intent_grace=GRACE_S, announce=True), clock)
    ledger.run(strays.keep, JOBS[1:])
    clock.at = LONGEST_PAUSE_S + GRACE_S + 1
    ledger.sweep(strays.sweep)
    with engine.connect() as connection:
        assert connection.execute(select(billing_webhooks.c.event)).scalars().all() == ["dead_letter.created"]


def test_no_message_waits_longer_than_a_stray_is_left_alone() -> None:
    assert max(BACKOFF_S) == LONGEST_PAUSE_S


def test_a_sweep_leaves_a_sign_of_life_that_the_overview_has(ledger: Ledger, clock: Clock) -> None:
    assert ledger.overview().swept_at is None
    for at in (5, 15):
        clock.at = at
        ledger.run(heartbeats.remember, heartbeats.SWEEP)
        assert ledger.overview().swept_at == (START + at) * 1000
