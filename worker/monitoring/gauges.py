"""Gauges of this worker, the database and the broker: read at the scrape, at most once in `CACHE_S`."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config.settings import Settings
from relay_billing.flows.overview import LastReconcile, Open
from worker.monitoring import snapshot, sweeps
from worker.monitoring.snapshot import Snapshot

CACHE_S = 5.0
"""Seconds for which one reading of database and broker is reused, however many scrapes come."""


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"billing_{name}", words, value=value)


def _open(name: str, words: str, seen: Open, now_ms: int) -> Iterator[Metric]:
    yield _gauge(f"{name}", f"{words}", seen.count)
    yield _gauge(f"{name}_quota", f"{words}: quota at stake", seen.quota)
    yield _gauge(f"{name}_oldest_age_seconds", f"{words}: age of the oldest, 0 where there is none", seen.age_s(now_ms))


def _last_reconcile(last: LastReconcile) -> Iterator[Metric]:
    finished = last.finished_at / 1000
    yield _gauge(
        "last_reconcile_timestamp_seconds", "When the last reconcile of everything finished, in Unix seconds", finished
    )
    yield _gauge("last_reconcile_duration_seconds", "Seconds that the last reconcile took", last.duration_ms / 1000)
    yield _gauge("last_reconcile_drifts", "Drifts that the last reconcile found", last.drifts)
    yield _gauge("last_reconcile_drift_quota", "Quota of the drifts that the last reconcile found", last.drift_quota)


@dataclass(frozen=True, slots=True)
class Own:
    """What a worker knows of itself without a query."""

    consuming: Callable[[], bool]
    """Whether it takes jobs from the queue."""
    children: Callable[[], int]
    """Processes of its pool that live."""
    began_at: float = field(default_factory=time.time)
    """Unix seconds."""


def families(seen: Snapshot, own: Own) -> Iterator[Metric]:
    """All gauges. What could not be read is left out, and `database_up` or `broker_up` is 0."""
    yield _gauge("worker_consuming", "1 while this worker takes jobs from the queue", int(own.consuming()))
    yield _gauge("worker_children", "Processes of this worker that apply jobs and live", own.children())
    yield _gauge("database_up", "1 while this worker can read the database", int(seen.overview is not None))
    yield _gauge("broker_up", "1 while this worker can ask the broker", int(seen.broker_problem is None))
    if seen.overview is not None:
        at = seen.overview.at
        yield from _open("open_holds", "Sessions that nobody has closed", seen.overview.holds, at)
        yield _gauge("parked_holds", "Of these, those that wait for an operator", seen.overview.parked)
        yield from _open("waiting_intents", "Settles and refunds that are not applied yet", seen.overview.intents, at)
        yield from _open("open_dead_letters", "Dead letters that nobody has dealt with", seen.overview.dead_letters, at)
        if seen.overview.reconcile is not None:
            yield from _last_reconcile(seen.overview.reconcile)
        if seen.overview.swept_at is not None:
            swept = seen.overview.swept_at / 1000
            yield _gauge("last_sweep_timestamp_seconds", "When a sweep last came through, in Unix seconds", swept)
    messages = GaugeMetricFamily("billing_queue_messages", "Messages that no worker has taken yet", labels=["queue"])
    ages = GaugeMetricFamily(
        "billing_queue_oldest_age_seconds", "Age of the next message, where the broker reports it", labels=["queue"]
    )
    for queue in seen.queues:
        messages.add_metric([queue.name], queue.messages)
        if queue.oldest_at is not None or queue.messages == 0:
            age = 0 if queue.oldest_at is None else max(0, time.time_ns() // 1_000_000 - queue.oldest_at) / 1000
            ages.add_metric([queue.name], age)
    yield messages
    yield ages


class SnapshotCollector(Collector):
    """Reads database and broker at a scrape, at most once in `CACHE_S`.

    No fork happens while it reads: a child would inherit an open connection.
    """

    def __init__(self, settings: Settings, own: Own) -> None:
        self._settings, self._own = settings, own
        self._asking = threading.Lock()
        self._seen: Snapshot | None = None
        self._seen_at = 0.0
        release = self._asking.release
        os.register_at_fork(before=self._asking.acquire, after_in_parent=release, after_in_child=release)

    def collect(self) -> Iterable[Metric]:
        """All gauges."""
        return list(families(self._look(), self._own))

    def _old(self) -> bool:
        return self._seen is None or time.monotonic() - self._seen_at > CACHE_S

    def _look(self) -> Snapshot:
        with self._asking:
            if self._seen is None or self._old():
                self._seen = snapshot.read(self._settings.database_url, self._settings.broker_url)
                self._seen_at = time.monotonic()
            return self._seen

    def unready(self) -> str | None:
        """Why this worker is not ready; None: it is. Answers immediately, by the last reading."""
        if not self._own.consuming():
            return "not consuming"
        seen = self._seen
        if self._old() and not self._asking.locked():
            threading.Thread(target=self._look, name="snapshot", daemon=True).start()
        if seen is None or seen.overview is None:
            # Sweeps are unknown then; that the database is away is what `database_up` reports.
            return None
        return sweeps.overdue(self._settings, seen.overview.swept_at, self._own.began_at, time.time())
