"""Rates, rounds and ratios: ours and the baselines take turns, and what is told is the median of the rounds."""

import asyncio
import itertools
import random
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field

USERS = 10_000
_numbers = itertools.count()
_run = f"{random.getrandbits(40):x}"


def request_id() -> str:
    """One that was never used."""
    return f"bench-{_run}-{next(_numbers)}"


def evenly() -> int:
    """Any user."""
    return random.randint(1, USERS)


def hot() -> int:
    """Always the same one."""
    return 1


_weights = list(itertools.accumulate(1 / rank for rank in range(1, USERS + 1)))


def zipf() -> int:
    """A few users often, most seldom."""
    return random.choices(range(1, USERS + 1), cum_weights=_weights)[0]


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls a second, and their latencies in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


def rate(latencies: list[float], seconds: float) -> Rate:
    """Make a rate of latencies in seconds."""
    latencies.sort()
    p50, p99 = (latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000 for share in (0.5, 0.99))
    return Rate(len(latencies) / seconds, p50, p99)


Measured = Callable[[], Rate]


@dataclass(slots=True)
class Scenario:
    """One comparison. The first way is ours; the others are what it is held against."""

    name: str
    group: str
    callers: int
    ways: dict[str, Measured]
    rates: dict[str, list[Rate]] = field(default_factory=dict)

    def round(self) -> None:
        """Each way once."""
        for way, measured in self.ways.items():
            self.rates.setdefault(way, []).append(measured())

    def median(self, way: str) -> Rate:
        """The median of all rounds, figure by figure."""
        found = self.rates[way]
        return Rate(
            statistics.median(each.per_second for each in found),
            statistics.median(each.p50_ms for each in found),
            statistics.median(each.p99_ms for each in found),
        )

    def ratio(self, way: str) -> float:
        """How many times as fast ours is: the median of the rounds' ratios."""
        ours, theirs = self.rates[next(iter(self.ways))], self.rates[way]
        return statistics.median(a.per_second / b.per_second for a, b in zip(ours, theirs, strict=True))

    def figures(self) -> dict[str, object]:
        """What is written down."""
        ways = {way: {**asdict(self.median(way)), "ours_is_times": round(self.ratio(way), 2)} for way in self.ways}
        return {"name": self.name, "group": self.group, "callers": self.callers, "ways": ways}


WARM_UP_S = 0.5
"""Not counted, of ours and of the baselines alike: connections are opened then, and statements prepared."""


class Clock:
    """Runs for a warm-up and then so many seconds; keeps the latencies of what began after the warm-up."""

    def __init__(self, seconds: float) -> None:
        self._warm = time.perf_counter() + WARM_UP_S
        self._end = self._warm + seconds
        self._latencies: list[float] = []

    def running(self) -> bool:
        """Whether another call is to be made."""
        return time.perf_counter() < self._end

    def took(self, began: float) -> None:
        """A call that began then has ended."""
        if began >= self._warm:
            self._latencies.append(time.perf_counter() - began)

    def rate(self) -> Rate:
        """Of all that was kept, once every caller has ended."""
        return rate(self._latencies, time.perf_counter() - self._warm)


def by_threads(callers: int, seconds: float, call: Callable[[], object]) -> Rate:
    """So many threads that call without a pause."""
    clock = Clock(seconds)

    def work() -> None:
        while clock.running():
            began = time.perf_counter()
            call()
            clock.took(began)

    workers = [threading.Thread(target=work) for _ in range(callers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return clock.rate()


async def by_tasks(callers: int, seconds: float, call: Callable[[], Awaitable[object]]) -> Rate:
    """So many tasks that call without a pause."""
    clock = Clock(seconds)

    async def work() -> None:
        while clock.running():
            began = time.perf_counter()
            await call()
            clock.took(began)

    await asyncio.gather(*(work() for _ in range(callers)))
    return clock.rate()


def play(scenarios: Sequence[Scenario], rounds: int) -> None:
    """All rounds of all scenarios, interleaved."""
    for number in range(rounds):
        for scenario in scenarios:
            scenario.round()
            print(f"round {number + 1} of {rounds}: {scenario.name}", flush=True)
