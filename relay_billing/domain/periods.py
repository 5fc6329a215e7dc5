"""The calendar of quota resets (semantics §7). All times are Unix seconds."""

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo


@dataclass(frozen=True, slots=True)
class Period:
    """One period of a subscription: the boundary at which it began, and the next boundary (0: there is none)."""

    last_reset_time: int
    next_reset_time: int
    due: bool
    """A boundary has passed: what was used before it is forgotten."""


def _midnight(moment: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(moment, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)


def _begin(kind: str, moment: int, zone: tzinfo) -> datetime:
    """The calendar boundary at or before `moment`."""
    day = _midnight(moment, zone)
    if kind == "weekly":
        return day - timedelta(days=day.weekday())
    if kind == "monthly":
        return day.replace(day=1)
    return day


def _after(kind: str, moment: int, custom_seconds: int, zone: tzinfo) -> int:
    """The first boundary strictly after `moment`."""
    if kind == "custom":
        return moment + custom_seconds
    begin = _begin(kind, moment, zone)
    if kind == "daily":
        following = begin + timedelta(days=1)
    elif kind == "weekly":
        following = begin + timedelta(days=7)
    else:
        following = (begin + timedelta(days=32)).replace(day=1)
    return int(following.timestamp())


def _latest(kind: str, boundary: int, now: int, custom_seconds: int, zone: tzinfo) -> int:
    """The last boundary at or before `now`, given one that has passed: missed periods are caught up in one step."""
    if kind == "custom":
        return boundary + (now - boundary) // custom_seconds * custom_seconds
    return max(boundary, int(_begin(kind, now, zone).timestamp()))


def resets(kind: str, custom_seconds: int) -> bool:
    """Whether a plan resets at all; a `custom` one without seconds does not, nor does an unknown word."""
    return kind in ("daily", "weekly", "monthly") or (kind == "custom" and custom_seconds > 0)


def current(
    kind: str,
    custom_seconds: int,
    *,
    start_time: int,
    last_reset_time: int,
    next_reset_time: int,
    end_time: int,
    now: int,
    zone: tzinfo,
) -> Period:
    """The period of a subscription at `now`. Boundaries after `end_time` don't count."""
    if not resets(kind, custom_seconds):
        return Period(last_reset_time, next_reset_time, due=False)
    base = last_reset_time or start_time
    boundary = next_reset_time or _after(kind, base, custom_seconds, zone)
    if boundary > end_time:
        return Period(base, 0, due=False)
    if boundary > now:
        return Period(base, boundary, due=False)
    latest = _latest(kind, boundary, min(now, end_time), custom_seconds, zone)
    following = _after(kind, latest, custom_seconds, zone)
    return Period(latest, following if following <= end_time else 0, due=True)
