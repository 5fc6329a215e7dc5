"""The calendar of quota resets."""

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_billing.domain import periods

BERLIN = ZoneInfo("Europe/Berlin")
FAR = 2**40


def at(words: str, zone: tzinfo = UTC) -> int:
    return int(datetime.fromisoformat(words).replace(tzinfo=zone).timestamp())


def stand(
    kind: str,
    start: int,
    now: int,
    *,
    last: int = 0,
    following: int = 0,
    end: int = FAR,
    seconds: int = 0,
    zone: tzinfo = UTC,
) -> tuple[int, int, bool]:
    found = periods.current(
        kind,
        seconds,
        start_time=start,
        last_reset_time=last,
        next_reset_time=following,
        end_time=end,
        now=now,
        zone=zone,
    )
    return found.last_reset_time, found.next_reset_time, found.due


CASES = [
    # kind, start, now, last, next, due
    ("daily", "2026-03-01T10:00", "2026-03-01T12:00", "2026-03-01T10:00", "2026-03-02T00:00", False),
    ("daily", "2026-03-01T10:00", "2026-03-02T00:00", "2026-03-02T00:00", "2026-03-03T00:00", True),
    ("daily", "2026-03-01T10:00", "2026-03-09T05:00", "2026-03-09T00:00", "2026-03-10T00:00", True),
    ("weekly", "2026-03-04T10:00", "2026-03-05T00:00", "2026-03-04T10:00", "2026-03-09T00:00", False),
    ("weekly", "2026-03-04T10:00", "2026-03-24T00:00", "2026-03-23T00:00", "2026-03-30T00:00", True),
    ("weekly", "2026-03-09T00:00", "2026-03-09T00:00", "2026-03-09T00:00", "2026-03-16T00:00", False),
    ("monthly", "2024-02-29T10:00", "2024-02-29T23:59", "2024-02-29T10:00", "2024-03-01T00:00", False),
    ("monthly", "2024-01-31T10:00", "2024-03-01T00:00", "2024-03-01T00:00", "2024-04-01T00:00", True),
    ("monthly", "2025-12-31T23:59", "2026-01-01T00:00", "2026-01-01T00:00", "2026-02-01T00:00", True),
]


@pytest.mark.parametrize(("kind", "start", "now", "last", "following", "due"), CASES)
def test_a_subscription_stands_at_the_latest_boundary(
    kind: str, start: str, now: str, last: str, following: str, due: bool
) -> None:
    assert stand(kind, at(start), at(now)) == (at(last), at(following), due)


def test_custom_periods_are_counted_from_the_start_and_caught_up_together() -> None:
    assert stand("custom", 1_000, 1_099, seconds=100) == (1_000, 1_100, False)
    assert stand("custom", 1_000, 1_555, seconds=100) == (1_500, 1_600, True)
    assert stand("custom", 1_000, 1_555, last=1_500, following=1_600, seconds=100) == (1_500, 1_600, False)


@pytest.mark.parametrize("kind", ["never", "custom", "", "yearly"])
def test_a_plan_without_a_known_period_never_resets(kind: str) -> None:
    assert stand(kind, 1_000, FAR - 1, last=5, following=7) == (5, 7, False)


def test_days_begin_at_local_midnight_also_when_the_clocks_change() -> None:
    start = at("2026-03-28T10:00", BERLIN)
    found = stand("daily", start, at("2026-03-29T12:00", BERLIN), zone=BERLIN)
    assert found == (at("2026-03-29T00:00", BERLIN), at("2026-03-30T00:00", BERLIN), True)
    assert found[1] - found[0] == 23 * 3_600
    assert stand("daily", start, at("2026-03-28T22:30"), zone=BERLIN)[2] is False


def test_no_boundary_after_the_end_counts() -> None:
    start, end = at("2026-03-01T10:00"), at("2026-03-03T12:00")
    assert stand("daily", start, at("2026-03-09T00:00"), end=end) == (at("2026-03-03T00:00"), 0, True)
    assert stand("monthly", start, at("2026-03-02T00:00"), end=end) == (start, 0, False)
    assert stand("daily", start, at("2026-03-03T11:00"), end=end) == (at("2026-03-03T00:00"), 0, True)


@given(
    kind=st.sampled_from(["daily", "weekly", "monthly", "custom"]),
    start=st.integers(10**9, 2 * 10**9),
    steps=st.lists(st.integers(0, 40 * 86_400), min_size=1, max_size=8),
    seconds=st.integers(60, 10**7),
    zone=st.sampled_from([UTC, BERLIN, ZoneInfo("Asia/Kolkata"), ZoneInfo("America/New_York")]),
)
def test_time_only_moves_a_subscription_forward_and_what_is_done_is_done(
    kind: str, start: int, steps: list[int], seconds: int, zone: tzinfo
) -> None:
    now, last, following = start, 0, 0
    for step in steps:
        now += step
        new_last, new_following, due = stand(
            kind, start, now, last=last, following=following, seconds=seconds, zone=zone
        )
        assert (last or start) <= new_last <= now < new_following
        assert due is (new_last > (last or start))
        again = stand(kind, start, now, last=new_last, following=new_following, seconds=seconds, zone=zone)
        assert again == (new_last, new_following, False)
        last, following = new_last, new_following
