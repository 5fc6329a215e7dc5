"""The comparison: totals for each verdict, the requests that differ most, and when."""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Engine

from relay_billing.domain.sessions import State
from relay_billing.flows.shadow import judged
from relay_billing.store.drivers import streamed
from worker.shadow.logs import charges
from worker.shadow.spool import Spool, spool
from worker.shadow.verdicts import Pair, Verdict, verdict

BUCKETS = 48
"""Parts of the time compared, for the plot."""
UNLISTED = (Verdict.AGREED, Verdict.OPEN, Verdict.NOT_COMPARED)
"""Verdicts whose requests are counted and not listed."""

Ours = tuple[str, int, int, int, bool, int | None]


@dataclass(slots=True)
class Total:
    """All requests of one verdict. Amounts are quota."""

    requests: int = 0
    ours: int = 0
    theirs: int = 0
    overdrawn: int = 0
    """Requests of these for which they charged more than there was."""

    @property
    def difference(self) -> int:
        """What they charged above (positive) or below (negative) what we would have."""
        return self.theirs - self.ours


@dataclass(slots=True)
class Report:
    """What was compared and found. Times are Unix milliseconds."""

    from_ms: int
    """When we were first asked in the time compared."""
    to_ms: int
    asked: bool
    """Whether we were asked at all."""
    readable: bool
    """Whether their log could be read; without it only our own side is known."""
    unnamed: int = 0
    """Their rows without a request id."""
    totals: dict[Verdict, Total] = field(default_factory=lambda: {each: Total() for each in Verdict})
    listed: list[tuple[Verdict, Pair]] = field(default_factory=list)
    """The requests that differ most, the most first."""
    buckets: Counter[tuple[int, Verdict]] = field(default_factory=Counter)
    """Requests by part of the time (0 to `BUCKETS` - 1) and verdict."""

    @property
    def bucket_ms(self) -> int:
        """How long each part of the time is."""
        return max(1, -(-(self.to_ms - self.from_ms + 1) // BUCKETS))


def compare(ours: Engine, theirs: Engine | None, since_ms: int, now_ms: int, edge_ms: int, limit: int) -> Report:
    """Compare what began at `since_ms` or later; list up to `limit` requests. Raises SQLAlchemy's errors.

    `theirs`: where their log is; None: it can't be read. `edge_ms`: how long before `since_ms` a request may have begun
    whose charge is in their log after it.
    """
    with spool() as rows:
        sessions, refusals, overdrawn = judged(since_ms - edge_ms)
        rows.add_sessions(_session(each) for each in streamed(ours, [sessions]))
        rows.add_refusals((of, user, at, funds) for of, user, funds, at in streamed(ours, [refusals]))
        rows.mark_below(of for (of,) in streamed(ours, [overdrawn]))
        first = rows.first_at(since_ms)
        report = Report(since_ms if first is None else first, now_ms, first is not None, theirs is not None)
        if theirs is not None:
            rows.add_charges(_named(theirs, (since_ms - edge_ms) // 1000, report))
        _judge(rows, report, limit)
    return report


def _session(row: tuple[object, ...]) -> Ours:
    of, user_id, state, actual, source, wallet, total, used_after, held, at = row
    is_open = state == State.PRECONSUMED.value
    funds = wallet
    if source == "subscription":
        # Without limit where the total is 0.
        funds = _whole(total) - _whole(used_after) + _whole(held) if total else None
    return str(of), _whole(user_id), _whole(at), _whole(actual), is_open, None if funds is None else _whole(funds)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _named(theirs: Engine, since_s: int, report: Report) -> Iterator[tuple[str, int | None, int, int]]:
    for charge in charges(theirs, since_s):
        if not charge.request_id:
            report.unnamed += charge.at_ms >= report.from_ms
            continue
        yield charge.request_id, charge.user_id, charge.at_ms, charge.quota


def _judge(rows: Spool, report: Report, limit: int) -> None:
    most: list[tuple[int, str, Verdict, Pair]] = []
    for pair in rows.pairs(report.from_ms):
        found = verdict(pair, readable=report.readable)
        total = report.totals[found]
        total.requests += 1
        total.ours += pair.ours or 0
        total.theirs += pair.charged
        total.overdrawn += pair.overdrawn
        report.buckets[min(max(0, pair.at - report.from_ms) // report.bucket_ms, BUCKETS - 1), found] += 1
        if found in UNLISTED or not limit:
            continue
        heapq.heappush(most, (abs(pair.difference), pair.request_id, found, pair))
        if len(most) > limit:
            heapq.heappop(most)
    report.listed = [(found, pair) for _, _, found, pair in sorted(most, key=lambda each: each[:2], reverse=True)]
