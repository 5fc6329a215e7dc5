"""Durations and how often each, added up when they are read: to count one takes an append.

The locks of prometheus-client's own histogram and counter took a tenth of the HTTP door's time.
"""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from a hold in one round trip to one that is retried until its call's time-out."""
_BOUNDS = (*map(str, BUCKETS_S), "+Inf")
_ADDED_UP_AT = 1_000
"""Durations after which they are added up, read or not: half a millisecond of work."""


class Named(NamedTuple):
    """A metric's name and what it says."""

    name: str
    says: str


@dataclass(slots=True)
class _Sum:
    seconds: float
    counts: list[int]
    """By bucket, not cumulative."""


class Timings:
    """A histogram of durations and a counter of the same events, which has more labels. Any thread may count."""

    def __init__(
        self,
        registry: CollectorRegistry,
        histogram: Named,
        counter: Named,
        labels: Sequence[str],
        timed_by: int,
        known: Sequence[tuple[str, ...]] = (),
    ) -> None:
        """`labels` are the counter's; the histogram has the first `timed_by` of them. `known`: values that are shown
        before they are counted, as 0. Raises ValueError where the registry has one of the metrics already.
        """
        self._histogram, self._counter, self._labels, self._timed_by = histogram, counter, labels, timed_by
        self._waiting: deque[tuple[tuple[str, ...], float]] = deque()
        self._lock = Lock()
        self._events: Counter[tuple[str, ...]] = Counter(dict.fromkeys(known, 0))
        self._sums: defaultdict[tuple[str, ...], _Sum] = defaultdict(lambda: _Sum(0.0, [0] * len(_BOUNDS)))
        for values in known:
            self._sums[values[:timed_by]]
        registry.register(self)

    def count(self, values: tuple[str, ...], seconds: float) -> None:
        """One event, with the values of the counter's labels."""
        self._waiting.append((values, seconds))
        if len(self._waiting) >= _ADDED_UP_AT:
            self._add_up()

    def _add_up(self) -> None:
        with self._lock:
            for _ in range(len(self._waiting)):
                values, seconds = self._waiting.popleft()
                self._events[values] += 1
                total = self._sums[values[: self._timed_by]]
                total.seconds += seconds
                total.counts[bisect_left(BUCKETS_S, seconds)] += 1

    def describe(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """The names that it has in its registry (prometheus-client's `Collector`)."""
        yield HistogramMetricFamily(*self._histogram, labels=self._labels[: self._timed_by])
        yield CounterMetricFamily(*self._counter, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Everything counted until now (prometheus-client's `Collector`)."""
        self._add_up()
        timed, counted = self.describe()
        assert isinstance(timed, HistogramMetricFamily)
        assert isinstance(counted, CounterMetricFamily)
        with self._lock:
            for values, total in self._sums.items():
                buckets = list(zip(_BOUNDS, map(float, accumulate(total.counts)), strict=True))
                timed.add_metric(values, buckets, total.seconds)
            for values, events in self._events.items():
                counted.add_metric(values, events)
        yield timed
        yield counted
