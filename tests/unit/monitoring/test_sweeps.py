"""When sweeps are taken to be lost."""

import pytest

from config.settings import Settings
from worker.monitoring import sweeps

NOW = 1_800_000_000.0
LONG_AGO = NOW - 1_000_000


@pytest.mark.parametrize(
    ("interval_s", "swept_s_ago", "began_s_ago", "lost"),
    [
        (10, 59, 10_000, False),
        (10, 61, 10_000, True),
        (30, 61, 10_000, False),
        (30, 91, 10_000, True),
        # A worker that has just begun waits for its first sweep, whatever was before.
        (10, 10_000, 59, False),
        (10, 10_000, 61, True),
        (10, None, 59, False),
        (10, None, 61, True),
        # The clock of the worker that swept is ahead.
        (10, -30, 10_000, False),
    ],
)
def test_sweeps_are_lost_when_none_came_through_for_a_minute_and_three_intervals(
    interval_s: int, swept_s_ago: int | None, began_s_ago: int, lost: bool
) -> None:
    swept_at = None if swept_s_ago is None else int((NOW - swept_s_ago) * 1000)
    problem = sweeps.overdue(Settings(sweep_interval=interval_s), swept_at, NOW - began_s_ago, NOW)
    assert (problem is not None) is lost
    if problem is not None:
        assert ("none ever" in problem) is (swept_at is None)
