"""Random lives of sessions on each database, against the small model."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import Engine, delete, func, select

from relay_billing import BillingError, Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain.choices import HoldExpiry, SubscriptionOverflow
from relay_billing.domain.ownership import Calendar
from relay_billing.schema import billing_ledger, metadata, tokens, user_subscriptions
from tests.fixtures.accounts import START, Clock, given, states, token, wallet
from tests.fixtures.names import LONGEST, NASTY
from tests.model import DAY, Hold, Model, Sub

NAMES = st.sampled_from(["a", "forfeit:a", *NASTY[:4], NASTY[5], LONGEST])
REFERENCES = st.sampled_from(["payment-1", "opening", "forfeit:a"])
AMOUNTS = st.integers(0, 900)
PREFERENCES = st.sampled_from(["wallet_first", "wallet_only", "subscription_first", "subscription_only"])
JOBS = st.one_of(
    st.builds(SettleJob, NAMES, st.integers(0, 1_600)),
    st.builds(RefundJob, NAMES),
)


class Lives(RuleBasedStateMachine):
    """One user's sessions; `engine` is put in by the test."""

    engine: ClassVar[Engine]
    fast_paths: ClassVar[bool]
    policy: ClassVar[Policy] = Policy()
    """What each life's policy is made from."""
    put: ClassVar[Callable[..., None]] = staticmethod(given)
    """Puts rows into the account tables."""

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
        self.model.external = self.policy.subscription_calendar is Calendar.EXTERNAL
        self.put(
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
        policy = replace(
            self.policy,
            trust_quota=trust,
            subscription_overflow=overflow,
            hold_expiry=expiry,
            max_settle_quota=limit,
            intent_grace=0,
        )
        self.ledger = Ledger(self.engine, policy, self.clock, fast_paths=self.fast_paths)

    @rule(name=NAMES, quota=AMOUNTS, preference=PREFERENCES, playground=st.booleans(), force=st.booleans())
    def pre_consume(self, name: str, quota: int, preference: str, playground: bool, force: bool) -> None:
        expected = self.model.pre_consume(name, quota, preference, playground, force)
        request = PreConsume(name, 1, None if playground else 1, quota, "m", preference, playground, force)
        (answer,) = self.ledger.pre_consume_many([request])
        assert _word(answer) == expected

    @rule(asked=st.lists(st.tuples(NAMES, AMOUNTS, PREFERENCES, st.booleans(), st.booleans()), min_size=2, max_size=6))
    def pre_consume_many(self, asked: list[tuple[str, int, str, bool, bool]]) -> None:
        expected = [self.model.pre_consume(*each) for each in asked]
        requests = [
            PreConsume(name, 1, None if playground else 1, quota, "m", preference, playground, force)
            for name, quota, preference, playground, force in asked
        ]
        assert [_word(answer) for answer in self.ledger.pre_consume_many(requests)] == expected

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

    @rule(reference=REFERENCES, quota=st.integers(1, 3))
    def top_up(self, reference: str, quota: int) -> None:
        expected = self.model.top_up(reference, quota)
        try:
            self.ledger.top_up(user_id=1, quota=quota, reference=reference)
            found = "ok"
        except BillingError as error:
            found = error.code
        assert found == expected

    @rule(retention_s=st.sampled_from([1, 1_800, 2 * DAY]))
    def purge(self, retention_s: int) -> None:
        assert self.ledger.purge(retention_s) == self.model.purge(retention_s)

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
        self.reconciles()
        assert self._moved() == {name: _owed(each) for name, each in self.model.sessions.items() if _owed(each)}

    def reconciles(self) -> None:
        """Every account and every session adds up."""
        assert list(self.ledger.findings()) == []

    def _moved(self) -> dict[str, int]:
        """What each session has taken from its funding, counted apart from `reconcile`."""
        c = billing_ledger.c
        kinds = ("pre_consume", "reserve", "settle", "refund", "expire")
        sums = (
            select(c.request_id, -func.sum(c.amount))
            .where(c.kind.in_(kinds), c.account_type != "token")
            .group_by(c.request_id)
        )
        with self.engine.connect() as connection:
            return {name: int(total) for name, total in connection.execute(sums) if total}


def _owed(session: Hold) -> int:
    return {"preconsumed": session.held, "settled": session.actual}.get(session.state, 0)


def _word(answer: object) -> str:
    return answer.code if isinstance(answer, BillingError) else "ok"


def _judged(model: Model, job: SettleJob | RefundJob) -> str:
    if isinstance(job, SettleJob):
        return model.settle(job.request_id, job.actual_quota)
    return model.refund(job.request_id)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fast_paths", [True, False], ids=["fast paths", "general path"])
def test_whatever_happens_the_books_are_the_models(
    engine: Engine, fast_paths: bool, pytestconfig: pytest.Config
) -> None:
    live(type("LivesOnThis", (Lives,), {"engine": engine, "fast_paths": fast_paths}), pytestconfig)


def live(machine: type[Lives], pytestconfig: pytest.Config) -> None:
    """Try random lives of a machine, as many as the command line says."""
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
