"""How a hold begins and grows."""

from dataclasses import replace

import pytest

from relay_billing import (
    BillingError,
    IdempotencyConflict,
    InsufficientUserQuota,
    Policy,
    PreConsumeTokenQuotaFailed,
    QueryDataError,
    RefundJob,
    SettleJob,
    UnknownSession,
)
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.accounts import Subscription, Token
from relay_billing.domain.plans import Plan
from relay_billing.domain.sessions import State
from relay_billing.domain.worksheet import Worksheet
from tests.fixtures.domain import ALLOWANCE, DAY_S, NOW, hold, judge, moved, reserve, worksheet

TRUSTING = Policy(trust_quota=500)


def test_a_hold_is_taken_from_wallet_and_token() -> None:
    rows = worksheet()
    session = hold(rows)
    assert (session.state, session.source, session.pre_consumed_quota) == (State.PRECONSUMED, "wallet", 100)
    assert (session.token_consumed, session.user_quota, session.needs_refund) == (100, 1_000, True)
    assert (rows.wallets[1].quota, rows.tokens[1].remain_quota) == (900, 900)


REFUSED: list[tuple[dict[str, object], dict[str, object], type[BillingError]]] = [
    ({"wallet": 0}, {"quota": 0}, InsufficientUserQuota),
    ({"wallet": -5}, {}, InsufficientUserQuota),
    ({"wallet": 99}, {}, InsufficientUserQuota),
    ({"wallet": 99, "remain": 0}, {"preference": "wallet_only"}, InsufficientUserQuota),
    ({"wallet": 99, "remain": 0}, {"preference": "wallet_first"}, PreConsumeTokenQuotaFailed),
    ({"remain": 99}, {}, PreConsumeTokenQuotaFailed),
    ({}, {"token_id": 2}, PreConsumeTokenQuotaFailed),
    ({}, {"token_id": 3}, PreConsumeTokenQuotaFailed),
    ({}, {"user_id": 3}, QueryDataError),
    ({}, {"preference": "subscription_only"}, InsufficientUserQuota),
]


@pytest.mark.parametrize(("given", "asked", "error"), REFUSED)
def test_a_refused_hold_moves_nothing_and_leaves_no_session(
    given: dict[str, object], asked: dict[str, object], error: type[BillingError]
) -> None:
    rows = worksheet(**given)  # type: ignore[arg-type]
    with pytest.raises(error):
        hold(rows, **asked)
    assert (rows.sessions, rows.entries, rows.deltas) == ({}, [], {})


def test_a_hold_of_nothing_needs_a_wallet_but_no_token() -> None:
    rows = worksheet(wallet=1, remain=0)
    session = hold(rows, quota=0, token_id=3)
    assert (session.pre_consumed_quota, session.needs_refund) == (0, False)


def test_an_unlimited_token_is_counted_but_never_short() -> None:
    rows = worksheet(remain=-5, unlimited=True)
    hold(rows)
    assert rows.tokens[1].remain_quota == -105


def test_the_playground_has_no_token_leg() -> None:
    rows = worksheet()
    session = hold(rows, token_id=None, playground=True)
    assert (session.token_consumed, rows.tokens[1].remain_quota) == (0, 1_000)


# preference, wallet, allowance left (None: no subscription), token, who pays or the error
CHAIN = [
    ("wallet_first", 1_000, 1_000, 1_000, "wallet"),
    ("wallet_first", 99, 1_000, 1_000, "subscription"),
    ("wallet_first", 0, 99, 1_000, InsufficientUserQuota),
    ("wallet_first", 1_000, 1_000, 99, PreConsumeTokenQuotaFailed),
    ("subscription_first", 1_000, 1_000, 1_000, "subscription"),
    ("subscription_first", 1_000, 99, 1_000, "wallet"),
    ("subscription_first", 1_000, None, 1_000, "wallet"),
    ("subscription_first", 99, 99, 1_000, InsufficientUserQuota),
    ("subscription_first", 1_000, 1_000, 99, PreConsumeTokenQuotaFailed),
    ("subscription_only", 1_000, 1_000, 1_000, "subscription"),
    ("subscription_only", 1_000, 99, 1_000, InsufficientUserQuota),
    ("wallet_only", 99, 1_000, 1_000, InsufficientUserQuota),
    ("", 1_000, 1_000, 1_000, "subscription"),
    (None, 1_000, None, 1_000, "wallet"),
    ("gold_first", 1_000, 1_000, 1_000, "subscription"),
]


@pytest.mark.parametrize(("preference", "wallet", "left", "token", "expected"), CHAIN)
def test_the_preference_says_who_pays_and_who_comes_next(
    preference: str | None, wallet: int, left: int | None, token: int, expected: str | type[BillingError]
) -> None:
    bought = [] if left is None else [replace(ALLOWANCE, amount_used=1_000 - left)]
    rows = worksheet(wallet=wallet, remain=token, subscriptions=bought)
    if isinstance(expected, str):
        assert hold(rows, preference=preference).source == expected
    else:
        with pytest.raises(expected):
            hold(rows, preference=preference)
        assert rows.entries == []


# wallet, remain, unlimited, values of the request, trusted
TRUST = [
    (501, 501, False, {}, True),
    (500, 501, False, {}, False),
    (501, 500, False, {}, False),
    (501, 200, True, {}, True),
    (501, 501, False, {"force_pre_consume": True}, False),
    (501, 501, False, {"playground": True, "token_id": None}, False),
    (501, 501, False, {"preference": "subscription_first"}, True),
]


@pytest.mark.parametrize(("wallet", "remain", "unlimited", "asked", "trusted"), TRUST)
def test_only_a_rich_wallet_with_a_rich_token_is_trusted(
    wallet: int, remain: int, unlimited: bool, asked: dict[str, object], trusted: bool
) -> None:
    rows = worksheet(wallet=wallet, remain=remain, unlimited=unlimited, policy=TRUSTING)
    session = hold(rows, **asked)
    assert session.trusted is trusted
    assert session.pre_consumed_quota == (0 if trusted else 100)


def test_a_token_of_another_user_is_never_trusted() -> None:
    rows = worksheet(policy=TRUSTING)
    rows.tokens[2] = Token(2, 2, 10_000, True)
    with pytest.raises(PreConsumeTokenQuotaFailed):
        hold(rows, token_id=2)


def test_beyond_the_limit_of_trusted_sessions_holds_are_taken() -> None:
    rows = worksheet(policy=Policy(trust_quota=500, trust_max_inflight=2))
    assert [hold(rows, request_id=f"r{number}").trusted for number in range(3)] == [True, True, False]
    judge(rows, RefundJob("r0"))
    assert hold(rows, request_id="r4").trusted


def test_a_subscription_is_never_trusted_and_holds_at_least_one() -> None:
    rows = worksheet(policy=TRUSTING, subscriptions=[ALLOWANCE])
    session = hold(rows, preference="subscription_only", quota=0)
    assert (session.trusted, session.pre_consumed_quota, session.token_consumed) == (False, 1, 1)


def _ids_in_order(*subscriptions: Subscription) -> list[int]:
    rows = worksheet(remain=10_000, subscriptions=subscriptions)
    asked = [hold(rows, request_id=f"r{number}", preference="subscription_only", quota=600) for number in range(2)]
    return [session.subscription_id or 0 for session in asked]


def test_the_subscription_that_ends_first_pays_then_the_lower_id() -> None:
    later, sooner = replace(ALLOWANCE, id=1), replace(ALLOWANCE, id=2, end_time=NOW + DAY_S)
    assert _ids_in_order(later, sooner) == [2, 1]
    assert _ids_in_order(replace(ALLOWANCE, id=8), replace(ALLOWANCE, id=7)) == [7, 8]
    assert _ids_in_order(replace(ALLOWANCE, id=3, amount_total=0), replace(ALLOWANCE, id=4)) == [3, 3]


@pytest.mark.parametrize(
    "change", [{"status": "expired"}, {"end_time": NOW}, {"user_id": 2}, {"amount_used": 901}, {"amount_total": 99}]
)
def test_a_subscription_that_can_not_pay_is_passed_over(change: dict[str, object]) -> None:
    rows = worksheet(subscriptions=[replace(ALLOWANCE, **change)])  # type: ignore[arg-type]
    with pytest.raises(InsufficientUserQuota):
        hold(rows, preference="subscription_only")


def test_a_due_reset_is_written_for_the_subscription_that_pays_alone() -> None:
    spent = replace(ALLOWANCE, id=1, amount_total=50, amount_used=50)
    taken = replace(ALLOWANCE, id=2, amount_used=1_000)
    rows = worksheet(subscriptions=[spent, taken], plan=Plan(1, "daily plan", "daily", 0))
    session = hold(rows, preference="subscription_only")
    assert (session.subscription_id, session.subscription_amount_used_after_pre_consume) == (2, 100)
    assert session.subscription_plan_title == "daily plan"
    assert set(rows.turns) == {2}
    assert rows.subscriptions[1] == spent
    assert session.period == rows.subscriptions[2].last_reset_time == NOW // DAY_S * DAY_S


def test_a_replay_returns_the_session_as_it_stands_and_moves_nothing() -> None:
    rows = worksheet()
    hold(rows)
    judge(rows, SettleJob("r1", 30))
    before = list(rows.entries)
    assert hold(rows).state is State.SETTLED
    assert hold(rows, force_pre_consume=True, hold_ttl=5).actual_quota == 30
    assert rows.entries == before


@pytest.mark.parametrize(
    "change",
    [{"user_id": 2}, {"token_id": 2}, {"quota": 101}, {"model_name": "o3"}, {"preference": "wallet_only"}],
    ids=str,
)
def test_the_same_id_with_other_values_is_a_conflict_that_names_the_field(change: dict[str, object]) -> None:
    rows = worksheet()
    hold(rows)
    with pytest.raises(IdempotencyConflict) as refused:
        hold(rows, **change)
    assert refused.value.field == next(iter(change))


def test_preferences_that_mean_the_same_are_a_replay() -> None:
    rows = worksheet(subscriptions=[ALLOWANCE])
    hold(rows, preference="")
    assert hold(rows, preference="subscription_first") == hold(rows, preference="nonsense")


def test_a_reserve_takes_the_rest_from_funding_and_token() -> None:
    rows = worksheet()
    hold(rows)
    assert reserve(rows, 250).pre_consumed_quota == 250
    assert reserve(rows, 300).reserves == 2
    assert (rows.wallets[1].quota, rows.tokens[1].remain_quota) == (700, 700)
    assert [entry.movement.step for entry in rows.entries if entry.movement.kind == "reserve"] == [1, 1, 2, 2]


@pytest.mark.parametrize("target", [0, 99, 100])
def test_a_reserve_of_no_more_than_the_hold_changes_nothing(target: int) -> None:
    rows = worksheet()
    session = hold(rows)
    assert reserve(rows, target) == session


def test_a_reserve_of_a_closed_or_a_trusted_session_changes_nothing() -> None:
    rows = worksheet(policy=TRUSTING)
    assert hold(rows).trusted
    assert reserve(rows, 400).pre_consumed_quota == 0
    judge(rows, SettleJob("r1", 5))
    assert reserve(rows, 400).state is State.SETTLED


@pytest.mark.parametrize(
    ("given", "target", "error"),
    [
        ({}, 1_101, InsufficientUserQuota),
        ({"remain": 150}, 251, PreConsumeTokenQuotaFailed),
        ({"wallet": 100}, 101, InsufficientUserQuota),
    ],
)
def test_a_refused_reserve_moves_nothing(given: dict[str, object], target: int, error: type[BillingError]) -> None:
    rows = worksheet(**given)  # type: ignore[arg-type]
    hold(rows)
    before = list(rows.entries)
    with pytest.raises(error):
        reserve(rows, target)
    assert rows.entries == before


def test_a_reserve_of_nobody_is_an_unknown_session() -> None:
    with pytest.raises(UnknownSession):
        reserve(worksheet(), 5, "nobody")


def _with_subscription() -> Worksheet:
    rows = worksheet(remain=2_000, subscriptions=[ALLOWANCE])
    hold(rows, preference="subscription_only")
    return rows


def test_a_reserve_uses_the_sessions_own_subscription_in_the_period_of_its_hold() -> None:
    rows = _with_subscription()
    session = reserve(rows, 300)
    assert (session.pre_consumed_quota, session.subscription_post_delta) == (300, 200)
    assert rows.subscriptions[1].amount_used == 300
    rows.subscriptions[1] = replace(rows.subscriptions[1], last_reset_time=NOW)
    with pytest.raises(InsufficientUserQuota):
        reserve(rows, 400)
    assert moved(rows, "r1", AccountType.SUBSCRIPTION) == -300


def test_a_reserve_above_what_the_subscription_has_left_is_refused() -> None:
    rows = _with_subscription()
    with pytest.raises(InsufficientUserQuota):
        reserve(rows, 1_001)


@pytest.mark.parametrize(
    ("row", "extra", "remaining", "words"),
    [
        ({"last_reset_time": NOW}, 5, 900, "began a new period since the hold, remaining $0.001800 (900), needed"),
        ({"last_reset_time": NOW, "amount_total": 0}, 5, None, "new period since the hold, remaining without limit"),
        ({}, 901, 900, "subscription is short, remaining $0.001800 (900), needed $0.001802 (901)"),
    ],
    ids=["new period", "new period, unlimited", "no room"],
)
def test_a_reserve_that_is_refused_says_what_there_is(
    row: dict[str, int], extra: int, remaining: int | None, words: str
) -> None:
    rows = worksheet(remain=5_000, subscriptions=[ALLOWANCE])
    session = hold(rows, preference="subscription_only")
    rows.subscriptions[1] = replace(rows.subscriptions[1], **{"amount_used": 100, **row})  # type: ignore[arg-type]
    with pytest.raises(InsufficientUserQuota) as refused:
        reserve(rows, session.pre_consumed_quota + extra)
    assert refused.value.remaining == remaining
    assert words in str(refused.value)
