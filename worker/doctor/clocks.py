"""Time zones, and whether two clocks agree."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import text

from worker.doctor.engines import Kind
from worker.doctor.finding import Finding, Status
from worker.doctor.reading import Reading
from worker.doctor.subject import Subject

APART_S, FAR_APART_S = 2.0, 60.0
"""Seconds between the clocks of two hosts that are worth a word; that make holds expire wrongly."""

_NOW = {
    Kind.POSTGRESQL: "SELECT extract(epoch FROM clock_timestamp())",
    Kind.MARIADB: "SELECT UNIX_TIMESTAMP(SYSDATE(6))",
    Kind.MYSQL: "SELECT UNIX_TIMESTAMP(SYSDATE(6))",
}
_LOCAL_NOW = {
    Kind.POSTGRESQL: "SELECT extract(epoch FROM localtimestamp - timezone('UTC', now()))",
    Kind.MARIADB: "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())",
    Kind.MYSQL: "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())",
}
"""Seconds that the database's own zone is ahead of UTC."""


def clock(subject: Subject) -> Iterator[Finding]:
    """How far the database's clock is from this host's."""
    now = _NOW.get(subject.reading.kind)
    if now is None:
        yield Finding(Status.GREEN, "SQLite has this host's clock")
        return
    subject.reading.value("SELECT 1")
    before = subject.asked.clock()
    found = float(subject.reading.value(now))
    after = subject.asked.clock()
    # The answer was made at some moment between the two.
    apart = max(found - after, before - found, 0.0)
    if apart < APART_S:
        yield Finding(Status.GREEN, "the database's clock and this host's agree")
        return
    ahead = "ahead of" if found > after else "behind"
    sentence = f"the database's clock is {apart:,.0f} s {ahead} this host's: holds and periods go by ours"
    yield Finding(Status.RED if apart >= FAR_APART_S else Status.YELLOW, sentence, "Let NTP set both")


def _offset(seconds: float) -> str:
    sign, rest = ("-" if seconds < 0 else "+"), abs(int(seconds))
    return f"UTC{sign}{rest // 3600:02}:{rest % 3600 // 60:02}"


def _database_zone(reading: Reading) -> float | None:
    statement = _LOCAL_NOW.get(reading.kind)
    return None if statement is None else float(reading.rows(text(statement))[0][0])


def zones(subject: Subject) -> Iterator[Finding]:
    """Whether `BILLING_TIMEZONE`, this process and the database have the same midnight."""
    now = datetime.fromtimestamp(subject.asked.clock(), UTC)
    ours = now.astimezone(ZoneInfo(subject.asked.timezone)).utcoffset() or timedelta()
    process = now.astimezone().utcoffset() or timedelta()
    found = {"this process": process.total_seconds(), "the database": _database_zone(subject.reading)}
    ahead = ours.total_seconds()
    others = ", ".join(f"{name} {_offset(each)}" for name, each in found.items() if each is not None)
    sentence = f"BILLING_TIMEZONE {subject.asked.timezone} ({_offset(ahead)}), {others} ({time.tzname[0]})"
    if all(each in (None, ahead) for each in found.values()) or not subject.tables.foreign:
        yield Finding(Status.GREEN, f"{sentence}: periods begin by BILLING_TIMEZONE alone")
    else:
        hint = "Set BILLING_TIMEZONE to the zone of the relay's own process (its TZ), or both reset at different hours"
        yield Finding(Status.YELLOW, f"{sentence}: not the same midnight", hint)
