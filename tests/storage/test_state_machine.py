"""Random lives of sessions on each database, against the small model."""

from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import Engine, delete, select

from relay_billing import BillingError, Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain.policy import HoldExpiry, SubscriptionOverflow
from relay_billing.schema import metadata, tokens, user_subscriptions
from tests.fixtures.books import START, Clock, given, states, token, wallet
from tests.model import DAY, Model, Sub

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
AMOUNTS = st.integers(0, 900)
PREFERENCES = st.sampled_from(["wallet_first", "wallet_only", "subscription_first", "subscription_only"])
JOBS = st.one_of(
    st.builds(SettleJob, NAMES, st.integers(0, 1_600)),
    st.builds(RefundJob, NAMES),
)


class Lives(RuleBasedStateMachine):
    """One user's sessions; `engine` is put in by the test."""

    engine: ClassVar[Engine]
    at_once: ClassVar[bool]

    @initialize(
        funds=st.integers(-10, 3_000),
        remain=st.integers(0, 4_000),
        totals=st.tuples(st.sampled_from([0, 300, 1_500]), st.sampled_from([0, 300, 1_500])),
        trust=st.sampled_from([0, 0, 400]),
        overflow=st.sampled_from(list(SubscriptionOverflow)),
        expiry=st.sampled_from(list(HoldExpiry)),
        limit=st.sampled_from([0, 1_200]),
    )
    def begin(
        self,
        funds: int,
        remain: int,
        totals: tuple[int, int],
        trust: int,
        overflow: SubscriptionOverflow,
        expiry: HoldExpiry,
        limit: int,
    ) -> None:
        with self.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(delete(table))
        subs = {
            1: Sub(totals[0], end=START + 2 * DAY, start=START - 5),
            2: Sub(totals[1], end=START + 30 * DAY, start=START - DAY),
        }
        self.model = Model(funds, remain, subs, trust, overflow.value, expiry.value, limit, START)
        given(
            self.engine,
            user=[{"id": 1, "quota": funds}],
            token=[{"id": 1, "user_id": 1, "remain_quota": remain}],
            plan=[{"id": 1, "title": "daily", "quota_reset_period": "daily"}],
            subscription=[
                {"id": of, "user_id": 1, "plan_id": 1, "amount_total": sub.total}
                | {"start_time": sub.start, "end_time": sub.end}
                for of, sub in subs.items()
            ],
        )
        self.clock = Clock()
        policy = Policy(
            trust_quota=trust,
            subscription_overflow=overflow,
            hold_expiry=expiry,
            max_settle_quota=limit,
            intent_grace=0,
        )
        self.ledger = Ledger(self.engine, policy, self.clock)
        if not self.at_once:
            cases = self.ledger._cases
            self.ledger._cases = replace(cases, dialect=replace(cases.dialect, hold_at_once=None))

    @rule(name=NAMES, quota=AMOUNTS, preference=PREFERENCES, playground=st.booleans(), force=st.booleans())
    def pre_consume(self, name: str, quota: int, preference: str, playground: bool, force: bool) -> None:
        expected = self.model.pre_consume(name, quota, preference, playground, force)
        request = PreConsume(name, 1, None if playground else 1, quota, "m", preference, playground, force)
        (answer,) = self.ledger.pre_consume_many([request])
        assert _word(answer) == expected

    @rule(name=NAMES, goal=AMOUNTS)
    def reserve(self, name: str, goal: int) -> None:
        expected = self.model.reserve(name, goal)
        try:
            found = _word(self.ledger.reserve(name, goal))
        except BillingError as error:
            found = error.code
        assert found == expected

    @rule(jobs=st.lists(JOBS, min_size=1, max_size=4))
    def apply(self, jobs: list[SettleJob | RefundJob]) -> None:
        expected = [_judged(self.model, job) for job in jobs]
        assert [outcome.value for outcome in self.ledger.apply(jobs)] == expected

    @rule(job=JOBS)
    def intend(self, job: SettleJob | RefundJob) -> None:
        intent = ("settle", job.actual_quota) if isinstance(job, SettleJob) else ("refund", 0)
        self.model.intend(job.request_id, intent)
        self.ledger.intend([job])

    @rule()
    def sweep(self) -> None:
        self.clock.at += 1
        self.model.now += 1
        self.model.apply_intents()
        self.ledger.apply_intents()

    @rule()
    def expire_holds(self) -> None:
        self.model.expire()
        self.ledger.expire_holds()

    @rule()
    def reset_subscriptions(self) -> None:
        self.model.reset()
        self.ledger.reset_subscriptions()

    @rule(seconds=st.sampled_from([1, 1_800, 3_601, DAY, 3 * DAY, 14 * DAY]))
    def step_the_clock(self, seconds: int) -> None:
        self.clock.at += seconds
        self.model.now += seconds

    @rule()
    def delete_the_token(self) -> None:
        self.model.token = None
        with self.engine.begin() as connection:
            connection.execute(delete(tokens))

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        assert states(self.engine) == {name: each.state for name, each in self.model.sessions.items()}
        assert wallet(self.engine) == self.model.wallet
        if self.model.token is not None:
            assert token(self.engine) == self.model.token
        c = user_subscriptions.c
        with self.engine.connect() as connection:
            columns = (c.id, c.amount_used, c.last_reset_time, c.next_reset_time, c.status)
            rows = {row[0]: tuple(row)[1:] for row in connection.execute(select(*columns))}
        assert rows == {of: (sub.used, sub.last, sub.next, sub.status) for of, sub in self.model.subs.items()}
        assert self.ledger.reconcile() == []


def _word(answer: object) -> str:
    return answer.code if isinstance(answer, BillingError) else "ok"


def _judged(model: Model, job: SettleJob | RefundJob) -> str:
    if isinstance(job, SettleJob):
        return model.settle(job.request_id, job.actual_quota)
    return model.refund(job.request_id)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "general path"])
def test_whatever_happens_the_books_are_the_models(engine: Engine, at_once: bool, pytestconfig: pytest.Config) -> None:
    machine = type("LivesOnThis", (Lives,), {"engine": engine, "at_once": at_once})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=pytestconfig.getoption("--lives"),
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
