"""Whether sweeps come through: beat posts them, the broker carries them, a worker runs them."""

from config.settings import Settings

LEAST_PATIENCE_S = 60
"""Seconds, however short `sweep_interval` is: a worker that restarts, or a long batch, is no fault."""
MISSED_SWEEPS = 3


def patience_s(settings: Settings) -> int:
    """Seconds without a sweep after which sweeps count as lost."""
    return max(LEAST_PATIENCE_S, MISSED_SWEEPS * settings.sweep_interval)


def overdue(settings: Settings, swept_at: int | None, began_at: float, now: float) -> str | None:
    """Why sweeps count as lost; None: they do not.

    `swept_at`: Unix milliseconds of the last one (None: there was none); `began_at`: Unix seconds at which the worker
    began, for it allows as long for the first sweep; `now`: Unix seconds.
    """
    last = None if swept_at is None else swept_at / 1000
    waited = now - max(began_at, last or 0.0)
    if waited <= patience_s(settings):
        return None
    seen = "none ever came through" if last is None else f"the last one came through {now - last:.0f} s ago"
    return f"no sweep in {patience_s(settings)} s, {seen}: is there beat, and does the broker carry messages?"
