"""What tells the period of a subscription whose calendar is somebody else's (semantics §12)."""

TIMES = 2**32
"""Unix seconds that half of a fingerprint tells apart: until the year 2106."""


def fingerprint(*, start_time: int, last_reset_time: int, next_reset_time: int) -> int:
    """What tells the period of a subscription whose calendar is somebody else's, in 63 bits (semantics §12).

    Both boundaries, because a reset may leave one of them as it was.
    """
    return max(last_reset_time or start_time, 1) % (TIMES // 2) * TIMES + next_reset_time % TIMES


def goes_on(held_in: int, *, start_time: int, last_reset_time: int, next_reset_time: int) -> bool:
    """Whether the period that a hold has recorded still goes on: by its beginning, or by its fingerprint.

    A next boundary where there was none is no reset: the calendar was begun.
    """
    if held_in < TIMES:
        return last_reset_time == held_in
    now = fingerprint(start_time=start_time, last_reset_time=last_reset_time, next_reset_time=next_reset_time)
    return now == held_in or (held_in % TIMES == 0 and now // TIMES == held_in // TIMES)
