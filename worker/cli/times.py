"""Times as operators type them: so long ago, or a date."""

from datetime import UTC, datetime, timedelta

from config.refusal import Refusal
from worker.words import EPOCH

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def moment_ms(field: str, words: str | None) -> int | None:
    """Unix milliseconds of `30m`, `12h`, `7d` (so long ago) or of an ISO date; None stays None.

    Raises a Refusal that names `field` for anything else.
    """
    if words is None:
        return None
    try:
        if words[:-1].isdecimal() and words[-1:] in UNITS:
            then = datetime.now(UTC) - timedelta(seconds=int(words[:-1]) * UNITS[words[-1]])
        else:
            then = datetime.fromisoformat(words)
    except (ValueError, OverflowError):
        raise Refusal(f"{field}: must be like 30m, 12h, 7d or 2026-01-31, got {words!r}") from None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return (then - EPOCH) // timedelta(milliseconds=1)
