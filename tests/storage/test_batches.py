"""One to five hundred items a call, an answer for each, and no item that spoils its neighbours."""

import pytest
from sqlalchemy import Engine

from relay_billing import (
    BillingError,
    BillingSession,
    IdempotencyConflict,
    InsufficientUserQuota,
    InvalidRequest,
    Ledger,
    Outcome,
    Policy,
    PreConsume,
    PreConsumeTokenQuotaFailed,
    QueryDataError,
    RefundJob,
    SettleJob,
)
from relay_billing.flows import dead_letters
from relay_billing.flows.dead_letters import Filter
from tests.fixtures.accounts import Clock, given, states, wallet

WEALTH = 100_000


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    given(
        engine,
        user=[{"id": 1, "quota": WEALTH}, {"id": 2, "quota": 50}],
        token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}, {"id": 2, "user_id": 2, "remain_quota": WEALTH}],
    )
    return Ledger(engine, Policy(trust_quota=0), Clock())


def test_every_request_of_a_batch_has_its_own_answer(ledger: Ledger, engine: Engine) -> None:
    asked: list[tuple[PreConsume, type[BillingSession | BillingError]]] = [
        (PreConsume("a", 1, 1, 100), BillingSession),
        (PreConsume("b", 1, 1, -1), InvalidRequest),
        (PreConsume("", 1, 1, 5), InvalidRequest),
        (PreConsume("c", 9, 1, 5), QueryDataError),
        (PreConsume("d", 2, 2, 51), InsufficientUserQuota),
        (PreConsume("e", 1, 2, 5), PreConsumeTokenQuotaFailed),
        (PreConsume("a", 1, 1, 100), BillingSession),
        (PreConsume("a", 1, 1, 101), IdempotencyConflict),
        (PreConsume("f", 2, 2, 30), BillingSession),
        (PreConsume("g", 2, 2, 30), InsufficientUserQuota),
        (PreConsume("h", 2, 2, 20), BillingSession),
    ]
    answers = ledger.pre_consume_many([request for request, _ in asked])
    assert [type(answer) for answer in answers] == [expected for _, expected in asked]
    assert set(states(engine)) == {"a", "f", "h"}
    assert (wallet(engine, 1), wallet(engine, 2)) == (WEALTH - 100, 0)
    assert ledger.reconcile() == []


def test_every_job_of_a_batch_has_its_own_outcome(ledger: Ledger, engine: Engine) -> None:
    for name in "abcd":
        ledger.pre_consume(request_id=name, user_id=1, token_id=1, quota=100)
    jobs: list[SettleJob | RefundJob] = [
        SettleJob("a", 30),
        SettleJob("nobody", 30),
        RefundJob("b"),
        SettleJob("b", 5),
        SettleJob("a", 30),
        SettleJob("c", 900_000_000),
        RefundJob("d"),
        RefundJob("d"),
    ]
    outcomes = [outcome.value for outcome in ledger.apply(jobs)]
    expected = ["applied", "unknown_session", "applied", "conflict", "duplicate", "parked", "applied", "duplicate"]
    assert outcomes == expected
    assert wallet(engine) == WEALTH - 30 - 100
    assert sorted(letter.reason for letter in ledger.read(dead_letters.find, Filter())) == [
        "conflict",
        "implausible_amount",
    ]
    assert ledger.reconcile() == []


def test_500_items_go_in_one_call(ledger: Ledger, engine: Engine) -> None:
    names = [f"r{number}" for number in range(500)]
    answers = ledger.pre_consume_many([PreConsume(name, 1, 1, 10) for name in names])
    assert all(isinstance(answer, BillingSession) for answer in answers)
    assert ledger.apply([SettleJob(name, 7) for name in names]) == [Outcome.APPLIED] * 500
    assert wallet(engine) == WEALTH - 3_500
    assert ledger.reconcile() == []


@pytest.mark.parametrize("size", [0, 501])
def test_a_batch_of_none_or_too_many_is_refused(ledger: Ledger, size: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ledger.pre_consume_many([PreConsume("a", 1, 1, 1)] * size)
    assert refused.value.field == "requests"
    with pytest.raises(InvalidRequest) as refused:
        ledger.apply([RefundJob("a")] * size)
    assert refused.value.field == "jobs"
