"""Times as operators type them: so long ago, or a date."""

from datetime import UTC, datetime, timedelta

from config.refusal import Refusal
from worker.words import EPOCH

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _length(words: str) -> timedelta | None:
    """`30m`, `12h`, `7d` as a length of time; None: it is written in another way. Raises OverflowError."""
    if not (words[:-1].isascii() and words[:-1].isdecimal() and words[-1:] in UNITS):
        return None
    return timedelta(seconds=int(words[:-1]) * UNITS[words[-1]])


def end_ms(field: str, words: str | None) -> int | None:
    """Unix milliseconds at the end of `12h`, `90d` from now; None stays None. Raises a Refusal that names `field`."""
    if words is None:
        return None
    try:
        length = _length(words)
        if length:
            return (datetime.now(UTC) + length - EPOCH) // timedelta(milliseconds=1)
    except OverflowError:
        pass
    raise Refusal(f"{field}: must be like 30m, 12h or 90d, and more than none, got {words!r}")


def moment_ms(field: str, words: str | None) -> int | None:
    """Unix milliseconds of `30m`, `12h`, `7d` (so long ago) or of an ISO date; None stays None.

    Raises a Refusal that names `field` for anything else.
    """
    if words is None:
        return None
    try:
        length = _length(words)
        then = datetime.fromisoformat(words) if length is None else datetime.now(UTC) - length
    except (ValueError, OverflowError):
        raise Refusal(f"{field}: must be like 30m, 12h, 7d or 2026-01-31, got {words!r}") from None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return (then - EPOCH) // timedelta(milliseconds=1)
