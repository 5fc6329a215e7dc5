"""How a session ends."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_billing import BillingError, BillingSession, Outcome, Policy, RefundJob, SettleJob
from relay_billing.domain import settlements
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.choices import HoldExpiry, SubscriptionOverflow
from relay_billing.domain.jobs import Job
from relay_billing.domain.plans import Plan
from relay_billing.domain.sessions import Intent, State
from relay_billing.domain.sources import FUNDING
from relay_billing.domain.worksheet import Worksheet
from tests.fixtures.domain import ALLOWANCE, DAY_S, NOW, hold, judge, moved, reserve, worksheet

FUNDED = (AccountType.WALLET, AccountType.SUBSCRIPTION)


def held(state: State = State.PRECONSUMED, **given: object) -> Worksheet:
    """A worksheet with session r1, holding 100 of the wallet, brought to a state."""
    rows = worksheet(**given)  # type: ignore[arg-type]
    hold(rows)
    match state:
        case State.SETTLED:
            judge(rows, SettleJob("r1", 80))
        case State.REFUNDED:
            judge(rows, RefundJob("r1"))
        case State.EXPIRED:
            expire(rows)
        case State.FUNDING_SETTLED:
            rows.sessions["r1"] = replace(rows.sessions["r1"], state=state, actual_quota=80)
    return rows


def expire(rows: Worksheet) -> bool:
    rows.now_ms = rows.sessions["r1"].expires_at + 1
    return settlements.expire(rows, "r1", FUNDING)


# state before, job, outcome, state after, what wallet and token hold in the end
OUTCOMES = [
    (State.PRECONSUMED, SettleJob("r1", 80), Outcome.APPLIED, State.SETTLED, 920, 920),
    (State.PRECONSUMED, SettleJob("r1", 100), Outcome.APPLIED, State.SETTLED, 900, 900),
    (State.PRECONSUMED, SettleJob("r1", 0), Outcome.APPLIED, State.SETTLED, 1_000, 1_000),
    (State.PRECONSUMED, SettleJob("r1", 1_500), Outcome.APPLIED, State.SETTLED, -500, -500),
    (State.PRECONSUMED, RefundJob("r1"), Outcome.APPLIED, State.REFUNDED, 1_000, 1_000),
    (State.SETTLED, SettleJob("r1", 80), Outcome.DUPLICATE, State.SETTLED, 920, 920),
    (State.SETTLED, SettleJob("r1", 81), Outcome.DUPLICATE, State.SETTLED, 920, 920),
    (State.SETTLED, RefundJob("r1"), Outcome.DUPLICATE, State.SETTLED, 920, 920),
    (State.REFUNDED, SettleJob("r1", 80), Outcome.CONFLICT, State.REFUNDED, 1_000, 1_000),
    (State.REFUNDED, RefundJob("r1"), Outcome.DUPLICATE, State.REFUNDED, 1_000, 1_000),
    (State.EXPIRED, SettleJob("r1", 80), Outcome.LATE, State.SETTLED, 920, 920),
    (State.EXPIRED, RefundJob("r1"), Outcome.APPLIED, State.REFUNDED, 1_000, 1_000),
    # Its funding leg was settled with 80 on its own: only the token leg is left.
    (State.FUNDING_SETTLED, SettleJob("r1", 80), Outcome.APPLIED, State.SETTLED, 900, 920),
    (State.FUNDING_SETTLED, SettleJob("r1", 81), Outcome.CONFLICT, State.FUNDING_SETTLED, 900, 900),
    (State.FUNDING_SETTLED, RefundJob("r1"), Outcome.DUPLICATE, State.FUNDING_SETTLED, 900, 900),
]


@pytest.mark.parametrize(("before", "job", "outcome", "after", "wallet", "token"), OUTCOMES)
def test_a_job_ends_a_session_as_its_state_allows(
    before: State, job: Job, outcome: Outcome, after: State, wallet: int, token: int
) -> None:
    rows = held(before)
    answer = judge(rows, job)
    assert (answer.outcome, rows.sessions["r1"].state) == (outcome, after)
    assert (rows.wallets[1].quota, rows.tokens[1].remain_quota) == (wallet, token)
    assert answer.differs is (before is State.SETTLED and job == SettleJob("r1", 81))
    assert bool(rows.dead_letters) is (outcome is Outcome.CONFLICT)


def test_a_job_for_nobody_is_an_unknown_session_with_its_money_at_stake() -> None:
    answer = judge(worksheet(), SettleJob("nobody", 7))
    assert (answer.outcome, answer.at_stake) == (Outcome.UNKNOWN_SESSION, 7)


def test_a_settle_counts_the_usage_unless_the_relay_does() -> None:
    rows = held()
    judge(rows, SettleJob("r1", 80))
    assert rows.usage == {1: (80, 1)}
    rows = held(policy=Policy(trust_quota=0, record_usage=False))
    judge(rows, SettleJob("r1", 80))
    assert rows.usage == {}


def test_a_trusted_session_is_charged_whole_at_its_settle() -> None:
    rows = held(policy=Policy(trust_quota=500))
    assert rows.sessions["r1"].trusted
    judge(rows, SettleJob("r1", 80))
    assert (rows.wallets[1].quota, rows.tokens[1].remain_quota) == (920, 920)


def test_the_reason_is_kept() -> None:
    rows = held()
    judge(rows, SettleJob("r1", 80, "client_gone"))
    assert rows.sessions["r1"].reason == "client_gone"


def test_a_token_that_is_gone_does_not_stop_the_settle_and_is_told() -> None:
    rows = held()
    del rows.tokens[1]
    answer = judge(rows, SettleJob("r1", 80))
    assert (answer.outcome, rows.wallets[1].quota) == (Outcome.APPLIED, 920)
    assert answer.token_error == rows.sessions["r1"].token_error == "token 1 is gone"
    assert judge(rows, RefundJob("r1")).outcome is Outcome.DUPLICATE


def test_a_token_that_is_gone_is_skipped_by_a_refund() -> None:
    rows = held()
    del rows.tokens[1]
    judge(rows, RefundJob("r1"))
    assert rows.wallets[1].quota == 1_000


def test_an_implausible_amount_parks_until_it_is_judged_afresh() -> None:
    rows = held(policy=Policy(trust_quota=0, max_settle_quota=500))
    assert judge(rows, SettleJob("r1", 501)).outcome is Outcome.PARKED
    session = rows.sessions["r1"]
    assert (session.state, session.parked, session.parked_reason) == (State.PRECONSUMED, True, "implausible_amount")
    assert rows.wallets[1].quota == 900
    assert expire(rows) is False
    assert judge(rows, SettleJob("r1", 500)).outcome is Outcome.APPLIED
    assert rows.sessions["r1"].parked is False


def test_nothing_is_implausible_without_a_limit() -> None:
    rows = held(policy=Policy(trust_quota=0, max_settle_quota=0))
    assert judge(rows, SettleJob("r1", 2**53)).outcome is Outcome.APPLIED


@pytest.mark.parametrize("job", [SettleJob("r1", 80), RefundJob("r1")])
def test_a_user_who_is_gone_parks(job: Job) -> None:
    rows = held()
    del rows.wallets[1]
    answer = judge(rows, job)
    assert answer.outcome is Outcome.PARKED
    assert rows.sessions["r1"].parked_reason == "account_missing"


def with_subscription(
    overflow: str = "overdraw", preference: str = "subscription_first", wallet: int = 1_000
) -> Worksheet:
    """Session r1 holds 100 of a subscription of 1,000; the wallet has 1,000."""
    policy = Policy(trust_quota=0, subscription_overflow=SubscriptionOverflow(overflow))
    rows = worksheet(policy=policy, remain=10_000, wallet=wallet, subscriptions=[ALLOWANCE])
    hold(rows, preference=preference)
    return rows


# overflow, preference, actual; used of the subscription and the wallet afterwards (None: parked)
OVERFLOW = [
    ("overdraw", "subscription_first", 1_300, (1_300, 1_000)),
    ("wallet", "subscription_first", 1_300, (1_000, 700)),
    ("wallet", "wallet_first", 1_300, (1_000, -250)),
    ("wallet", "subscription_only", 1_300, (1_300, 1_000)),
    ("wallet", "subscription_first", 9_000, (1_000, -7_000)),
    ("reject", "subscription_first", 1_000, (1_000, 1_000)),
    ("reject", "subscription_first", 1_001, None),
]


@pytest.mark.parametrize(("overflow", "preference", "actual", "expected"), OVERFLOW)
def test_what_passes_the_subscription_goes_where_the_policy_says(
    overflow: str, preference: str, actual: int, expected: tuple[int, int] | None
) -> None:
    rows = with_subscription(overflow, preference, wallet=50 if preference == "wallet_first" else 1_000)
    answer = judge(rows, SettleJob("r1", actual))
    if expected is None:
        assert (answer.outcome, rows.sessions["r1"].parked_reason) == (Outcome.PARKED, "subscription_exceeded")
        assert rows.subscriptions[1].amount_used == 100
    else:
        assert (rows.subscriptions[1].amount_used, rows.wallets[1].quota) == expected
        assert moved(rows, "r1", *FUNDED) == -actual


def test_a_subscription_that_is_gone_parks() -> None:
    rows = with_subscription()
    rows.subscriptions.clear()
    assert judge(rows, SettleJob("r1", 80)).outcome is Outcome.PARKED


def reset(rows: Worksheet) -> None:
    """A new day begins: the subscription forgets what was used."""
    rows.plans[1] = Plan(1, "daily", "daily", 0)
    rows.now_ms += DAY_S * 1000
    hold(rows, request_id="next", preference="subscription_only", quota=7)


# job, used after it (7 are held by the next session)
AFTER_RESET = [
    (RefundJob("r1"), 7),
    (SettleJob("r1", 80), 7),
    (SettleJob("r1", 100), 7),
    (SettleJob("r1", 130), 37),
]


@pytest.mark.parametrize(("job", "used"), AFTER_RESET)
def test_after_a_reset_nothing_goes_back_and_only_an_extra_charge_counts(job: Job, used: int) -> None:
    rows = with_subscription()
    reset(rows)
    assert judge(rows, job).outcome is Outcome.APPLIED
    assert rows.subscriptions[1].amount_used == used
    assert moved(rows, "r1", *FUNDED) == (-job.actual_quota if isinstance(job, SettleJob) else 0)


def test_a_use_never_goes_below_zero() -> None:
    rows = with_subscription()
    rows.subscriptions[1] = replace(rows.subscriptions[1], amount_used=30)
    judge(rows, RefundJob("r1"))
    assert rows.subscriptions[1].amount_used == 0


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_hold_ends_when_it_is_older_than_its_time(seconds: int) -> None:
    rows = held()
    rows.now_ms += 3_600_000 + seconds
    assert settlements.expire(rows, "r1", FUNDING) is bool(seconds)


def test_a_hold_that_nobody_closed_is_released() -> None:
    rows = held(State.EXPIRED)
    session = rows.sessions["r1"]
    assert (session.state, session.reason, rows.wallets[1].quota) == (State.EXPIRED, "hold_expired", 1_000)
    assert {entry.movement.kind for entry in rows.entries[2:]} == {"expire"}


def test_a_hold_that_nobody_closed_is_charged_where_the_policy_says_so() -> None:
    rows = held(State.EXPIRED, policy=Policy(trust_quota=0, hold_expiry=HoldExpiry.CHARGE))
    session = rows.sessions["r1"]
    assert (session.state, session.actual_quota, rows.wallets[1].quota) == (State.SETTLED, 100, 900)
    assert judge(rows, SettleJob("r1", 100)).outcome is Outcome.DUPLICATE


@pytest.mark.parametrize("change", [{"parked": True}, {"intent": Intent.REFUND}, {"state": State.SETTLED}])
def test_a_hold_with_an_end_in_sight_does_not_expire(change: dict[str, object]) -> None:
    rows = held()
    rows.sessions["r1"] = replace(rows.sessions["r1"], **change)  # type: ignore[arg-type]
    assert expire(rows) is False
    assert settlements.expire(rows, "r1", FUNDING, abandoned=True) is False


@pytest.mark.parametrize("policy", [Policy(trust_quota=0), Policy(trust_quota=0, hold_expiry=HoldExpiry.CHARGE)])
def test_an_abandoned_hold_goes_back_and_a_settle_that_comes_all_the_same_is_charged(policy: Policy) -> None:
    rows = held(policy=policy)
    assert settlements.expire(rows, "r1", FUNDING, abandoned=True)
    session = rows.sessions["r1"]
    assert (session.state, session.reason, rows.wallets[1].quota) == (State.EXPIRED, "client_gone", 1_000)
    assert judge(rows, SettleJob("r1", 80)).outcome is Outcome.LATE
    assert rows.wallets[1].quota == 920


# intent on the row, job, outcome
INTENTS = [
    ((Intent.SETTLE, 80), SettleJob("r1", 80), Outcome.APPLIED),
    ((Intent.SETTLE, 80), SettleJob("r1", 81), Outcome.CONFLICT),
    ((Intent.SETTLE, 80), RefundJob("r1"), Outcome.CONFLICT),
    ((Intent.REFUND, None), RefundJob("r1"), Outcome.APPLIED),
    ((Intent.REFUND, None), SettleJob("r1", 80), Outcome.CONFLICT),
]


@pytest.mark.parametrize("state", [State.PRECONSUMED, State.EXPIRED])
@pytest.mark.parametrize(("intent", "job", "outcome"), INTENTS)
def test_a_job_that_contradicts_the_recorded_intent_moves_nothing(
    intent: tuple[Intent, int | None], job: Job, outcome: Outcome, state: State
) -> None:
    rows = held(state)
    rows.sessions["r1"] = replace(rows.sessions["r1"], intent=intent[0], intent_quota=intent[1])
    before = list(rows.entries)
    answered = judge(rows, job).outcome
    late = state is State.EXPIRED and isinstance(job, SettleJob) and outcome is Outcome.APPLIED
    assert answered is (Outcome.LATE if late else outcome)
    if outcome is Outcome.CONFLICT:
        assert rows.entries == before
        recorded = rows.sessions["r1"].intended_job
        assert recorded is not None
        assert judge(rows, recorded).outcome in (Outcome.APPLIED, Outcome.LATE)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.sampled_from("abc"), st.integers(0, 400)),
        st.tuples(st.just("reserve"), st.sampled_from("abc"), st.integers(0, 900)),
        st.tuples(st.just("settle"), st.sampled_from("abc"), st.integers(0, 900)),
        st.tuples(st.just("refund"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("expire"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("day"), st.just(""), st.just(0)),
    ),
    max_size=25,
)


@given(STEPS, st.sampled_from(["wallet_first", "subscription_first"]), st.sampled_from(list(SubscriptionOverflow)))
def test_whatever_happens_a_session_has_moved_what_its_state_says(
    steps: list[tuple[str, str, int]], preference: str, overflow: SubscriptionOverflow
) -> None:
    policy = Policy(trust_quota=0, subscription_overflow=overflow)
    rows = worksheet(policy=policy, wallet=700, remain=1_200, subscriptions=[ALLOWANCE], plan=Plan(1, "d", "daily", 0))
    for what, request_id, quota in steps:
        try:
            _do(rows, what, request_id, quota, preference)
        except BillingError:
            continue
    for session in rows.sessions.values():
        assert moved(rows, session.request_id, *FUNDED) == _should_have_moved(session)
        assert moved(rows, session.request_id, AccountType.TOKEN) == _should_have_moved(session)
    balance = rows.wallets[1].quota
    assert balance == 700 + sum(each.movement.amount for each in rows.entries if each.movement.account_type == "wallet")
    assert rows.subscriptions[1].amount_used >= 0


def _do(rows: Worksheet, what: str, request_id: str, quota: int, preference: str) -> None:
    match what:
        case "hold":
            hold(rows, request_id=request_id, quota=quota, preference=preference)
        case "reserve":
            reserve(rows, quota, request_id)
        case "settle":
            judge(rows, SettleJob(request_id, quota))
        case "refund":
            judge(rows, RefundJob(request_id))
        case "expire":
            rows.now_ms += 3_600_001
            settlements.expire(rows, request_id, FUNDING)
        case "day":
            rows.now_ms += DAY_S * 1000


def _should_have_moved(session: BillingSession) -> int:
    match session.state:
        case State.SETTLED:
            return -(session.actual_quota or 0)
        case State.PRECONSUMED:
            return -session.pre_consumed_quota
        case _:
            return 0


def test_the_clock_of_these_tests_is_a_friday_morning() -> None:
    assert NOW % DAY_S == 8 * 3_600
