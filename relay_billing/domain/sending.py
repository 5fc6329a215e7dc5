"""When an event is sent again, and when it is given up."""

MAX_ATTEMPTS = 12
"""Times that one event is sent; with the pauses below that takes about a day and a half."""
MAX_AGE_S = 3 * 86_400
"""An event that was not delivered for so long is marked failed."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10, 6 * 3_600
"""The pause between the first two attempts, and the longest of all."""
JITTER = 0.2
"""Part of a pause by which it is lengthened or shortened, so that not all events are sent again together."""


def pause_ms(attempts: int, draw: float) -> int:
    """Milliseconds to wait after so many attempts, each pause twice the one before; `draw` in 0 to 1 is the jitter."""
    pause_s: float = min(FIRST_PAUSE_S * 2 ** (attempts - 1) if attempts < 32 else LONGEST_PAUSE_S, LONGEST_PAUSE_S)
    return int(pause_s * 1000 * (1 - JITTER + 2 * JITTER * draw))


def given_up(attempts: int, created_at: int, now_ms: int) -> bool:
    """Whether an event that was not delivered is given up."""
    return attempts >= MAX_ATTEMPTS or now_ms - created_at >= MAX_AGE_S * 1000
