"""Which events a batch stands for."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import SettingsError, load
from relay_billing import Policy, RefundJob, SettleJob
from relay_billing.domain.sending import (
    FIRST_PAUSE_S,
    JITTER,
    LONGEST_PAUSE_S,
    MAX_AGE_S,
    MAX_ATTEMPTS,
    given_up,
    pause_ms,
)
from relay_billing.domain.thresholds import subscription_is_low, wallet_events
from relay_billing.domain.webhook_events import Event, EventType
from relay_billing.domain.webhooks import events_of
from tests.fixtures.domain import ALLOWANCE, hold, judge, worksheet

LOW, OUT = EventType.WALLET_LOW, EventType.WALLET_EXHAUSTED
TOLD = Policy(trust_quota=0, announce=True, wallet_low_quota=500)

# balance before, after, threshold, events
WALLETS = [
    (1_000, 600, 500, []),
    (1_000, 501, 500, []),
    (1_000, 500, 500, [LOW]),
    (501, 500, 500, [LOW]),
    (500, 499, 500, []),
    (500, 1, 500, []),
    (1_000, 0, 500, [LOW, OUT]),
    (1_000, -5, 500, [LOW, OUT]),
    (400, 0, 500, [OUT]),
    (0, -5, 500, []),
    (-5, 1_000, 500, []),
    (1_000, 1, 0, []),
    (1, 0, 0, [OUT]),
]


@pytest.mark.parametrize(("before", "after", "low", "expected"), WALLETS)
def test_a_wallet_tells_what_it_falls_through(before: int, after: int, low: int, expected: list[EventType]) -> None:
    assert wallet_events(before, after, low) == expected


# total, used before, used after, percent, told
SUBSCRIPTIONS = [
    (1_000, 0, 899, 10, False),
    (1_000, 0, 900, 10, True),
    (1_000, 899, 900, 10, True),
    (1_000, 900, 901, 10, False),
    (1_000, 950, 100, 10, False),
    (1_000, 0, 1_200, 10, True),
    (0, 0, 10**12, 10, False),
    (1_000, 0, 1_000, 0, False),
    (3, 0, 2, 34, True),
    (3, 0, 2, 33, False),
]


@pytest.mark.parametrize(("total", "before", "after", "percent", "told"), SUBSCRIPTIONS)
def test_a_subscription_tells_when_little_is_left(
    total: int, before: int, after: int, percent: int, told: bool
) -> None:
    assert subscription_is_low(total, before, after, percent) is told


@given(st.lists(st.integers(-2_000, 2_000), min_size=1, max_size=60), st.integers(1, 1_500))
def test_each_way_down_through_a_threshold_is_told_once(balances: list[int], low: int) -> None:
    steps = list(itertools.pairwise(balances))
    told = [kind for before, after in steps for kind in wallet_events(before, after, low)]
    for kind, threshold in ((LOW, low), (OUT, 0)):
        above = [balance > threshold for balance in balances]
        ways_down = sum(was and not is_ for was, is_ in itertools.pairwise(above))
        assert told.count(kind) == ways_down


def test_a_batch_is_told_by_where_it_began_and_where_it_ended() -> None:
    rows = worksheet(wallet=1_000, policy=TOLD)
    hold(rows, request_id="r1", quota=400)
    hold(rows, request_id="r2", quota=300)
    (event,) = events_of(rows)
    assert event.type is LOW
    assert event.data == {
        "user_id": 1,
        "balance_before": 1_000,
        "balance": 300,
        "threshold": 500,
        "request_id": "r2",
    }
    judge(rows, RefundJob("r2"))
    assert events_of(rows) == []


def test_nothing_is_told_without_a_url() -> None:
    rows = worksheet(wallet=1_000, policy=Policy(trust_quota=0))
    hold(rows, quota=1_000)
    assert events_of(rows) == []


def test_a_subscription_that_runs_low_is_told_with_what_is_left() -> None:
    rows = worksheet(policy=TOLD, subscriptions=[ALLOWANCE])
    hold(rows, preference="subscription_only", quota=100)
    assert events_of(rows) == []
    judge(rows, SettleJob("r1", 950))
    (event,) = events_of(rows)
    assert event.type is EventType.SUBSCRIPTION_LOW
    assert (event.data["amount_used"], event.data["left"], event.data["subscription_id"]) == (950, 50, 1)


def test_two_crossings_have_ids_of_their_own_and_a_decision_made_again_has_the_same() -> None:
    def crossing(request_id: str) -> Event:
        rows = worksheet(wallet=1_000, policy=TOLD)
        hold(rows, request_id=request_id, quota=600)
        return events_of(rows)[0]

    assert crossing("a").id == crossing("a").id
    assert crossing("a").id != crossing("b").id


def test_the_same_findings_are_the_same_event() -> None:
    finding = {"what": "wallet", "id": "1", "expected": 5, "found": 4}
    first, later = Event.of_drift([finding], 1, 1_000), Event.of_drift([finding], 1, 2_000)
    assert first.id == later.id
    assert first.id != Event.of_drift([finding | {"found": 3}], 1, 1_000).id


@given(st.integers(1, 200), st.floats(0, 1))
def test_pauses_grow_and_are_bounded_and_jittered(attempts: int, draw: float) -> None:
    low, high = FIRST_PAUSE_S * 1000 * (1 - JITTER), LONGEST_PAUSE_S * 1000 * (1 + JITTER)
    assert int(low) <= pause_ms(attempts, draw) <= high
    assert pause_ms(attempts, 0.5) <= pause_ms(attempts + 1, 0.5)


@pytest.mark.parametrize(
    ("attempts", "age_s", "expected"),
    [(1, 0, False), (MAX_ATTEMPTS - 1, 0, False), (MAX_ATTEMPTS, 0, True), (1, MAX_AGE_S, True)],
)
def test_an_event_is_given_up_after_so_many_attempts_or_so_long(attempts: int, age_s: int, expected: bool) -> None:
    assert given_up(attempts, 0, age_s * 1000) is expected


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/x",
        "h/x",
        "https://",
        "https://user:password-of-it@h/",
        "https://h/a b",
        "https://h:99999/",
        "https://[::1",
        "http://ä/",
    ],
)
def test_a_url_that_can_not_be_called_is_refused_without_repeating_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_WEBHOOK_URL", url)
    monkeypatch.setenv("BILLING_WEBHOOK_SECRET", "x" * 16)
    with pytest.raises(SettingsError, match="BILLING_WEBHOOK_URL") as refused:
        load()
    assert "password-of-it" not in str(refused.value)
