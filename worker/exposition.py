"""A worker's `/metrics` and `/ready`: what its processes have counted, and how things stand when it is asked."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from config.settings import Settings
from relay_billing.overview import LastReconcile, Open
from worker import standing
from worker.signs import alive
from worker.standing import Standing

log = structlog.get_logger("worker")

CACHE_S = 5.0
"""How long an answer of database and broker is told again: however many ask, they are asked once in that time."""
ENDED = "ended"
"""The file into which the counts of children that are gone are added, so that files don't grow in number."""
StartResponse = Callable[..., object]


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"billing_{name}", words, value=value)


def _open(name: str, words: str, seen: Open, now_ms: int) -> Iterator[Metric]:
    yield _gauge(f"{name}", f"{words}", seen.count)
    yield _gauge(f"{name}_quota", f"{words}: quota at stake", seen.quota)
    yield _gauge(f"{name}_oldest_age_seconds", f"{words}: age of the oldest, 0 where there is none", seen.age_s(now_ms))


def _last_reconcile(last: LastReconcile) -> Iterator[Metric]:
    finished = last.finished_at / 1000
    yield _gauge("last_reconcile_timestamp_seconds", "When all the books were last proved, in Unix seconds", finished)
    yield _gauge("last_reconcile_duration_seconds", "How long that took", last.duration_ms / 1000)
    yield _gauge("last_reconcile_drifts", "Things that did not add up then", last.drifts)
    yield _gauge("last_reconcile_drift_quota", "Quota by which they did not", last.drift_quota)


@dataclass(frozen=True, slots=True)
class Own:
    """What a worker knows of itself without asking anybody."""

    consuming: Callable[[], bool]
    """Whether it takes jobs from the queue."""
    children: Callable[[], int]
    """Processes of its pool that live."""


def families(seen: Standing, own: Own) -> Iterator[Metric]:
    """How things stand, as metrics. What could not be read is left out, and said by `_up`."""
    yield _gauge("worker_consuming", "1 while this worker takes jobs from the queue", int(own.consuming()))
    yield _gauge("worker_children", "Processes of this worker that apply jobs and live", own.children())
    yield _gauge("database_up", "1 while this worker can read the database", int(seen.overview is not None))
    yield _gauge("broker_up", "1 while this worker can ask the broker", int(seen.broker_problem is None))
    if seen.overview is not None:
        at = seen.overview.at
        yield from _open("open_holds", "Sessions that nobody has closed", seen.overview.holds, at)
        yield _gauge("parked_holds", "Of these, those that wait for an operator", seen.overview.parked)
        yield from _open("waiting_intents", "Settles and refunds that are not applied yet", seen.overview.intents, at)
        yield from _open("open_dead_letters", "Jobs that nobody has dealt with", seen.overview.dead_letters, at)
        if seen.overview.reconcile is not None:
            yield from _last_reconcile(seen.overview.reconcile)
    messages = GaugeMetricFamily("billing_queue_messages", "Messages that no worker has taken yet", labels=["queue"])
    ages = GaugeMetricFamily(
        "billing_queue_oldest_age_seconds", "Age of the next message, where the broker tells it", labels=["queue"]
    )
    for queue in seen.queues:
        messages.add_metric([queue.name], queue.messages)
        if queue.oldest_at is not None or queue.messages == 0:
            age = 0 if queue.oldest_at is None else max(0, standing.now_ms() - queue.oldest_at) / 1000
            ages.add_metric([queue.name], age)
    yield messages
    yield ages


class StandingCollector(Collector):
    """Asks database and broker when it is asked itself, at most once in `CACHE_S`.

    No fork happens while it asks: a child would inherit an open connection.
    """

    def __init__(self, settings: Settings, own: Own) -> None:
        self._settings, self._own = settings, own
        self._asking = threading.Lock()
        self._seen: Standing | None = None
        self._seen_at = 0.0
        release = self._asking.release
        os.register_at_fork(before=self._asking.acquire, after_in_parent=release, after_in_child=release)

    def collect(self) -> Iterable[Metric]:
        """All gauges."""
        with self._asking:
            if self._seen is None or time.monotonic() - self._seen_at > CACHE_S:
                self._seen = standing.read(self._settings.database_url, self._settings.broker_url)
                self._seen_at = time.monotonic()
            seen = self._seen
        return list(families(seen, self._own))


def _begun(file: Path) -> bool:
    """Whether there is anything to read: a file is empty at first, and for ever if its process was killed just then."""
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


class ProcessesCollector(MultiProcessCollector):
    """Adds up what the worker's processes have counted; those that are gone keep their counts, not their gauges."""

    def __init__(self, registry: CollectorRegistry, folder: Path) -> None:
        self._folding = threading.Lock()
        self._folder = folder
        super().__init__(registry, str(folder))

    def collect(self) -> Iterable[Metric]:
        """All counters and histograms, and the gauges of the processes that live."""
        with self._folding:
            self._fold()
            return list(self.merge([str(file) for file in self._folder.glob("*.db") if _begun(file)]))

    def _fold(self) -> None:
        """Add the files of processes that are gone into one."""
        owners = {file.stem.rpartition("_")[2] for file in self._folder.glob("*.db")} - {ENDED}
        for pid in owners:
            if not alive(int(pid)):
                mark_process_dead(int(pid), str(self._folder))
                for kind in ("counter", "histogram"):
                    self._add(kind, self._folder / f"{kind}_{pid}.db")

    def _add(self, kind: str, file: Path) -> None:
        if not _begun(file):
            file.unlink(missing_ok=True)
            return
        into, beside = self._folder / f"{kind}_{ENDED}.db", self._folder / f"{kind}_{ENDED}.new"
        beside.unlink(missing_ok=True)
        files = [str(each) for each in (into, file) if each.exists()]
        sums = MmapedDict(str(beside))
        for metric in self.merge(files, accumulate=False):
            for sample in metric.samples:
                names, values = list(sample.labels), list(sample.labels.values())
                key = mmap_key(metric.name, sample.name, names, values, metric.documentation)
                sums.write_value(key, sample.value, 0.0)
        sums.close()
        beside.replace(into)
        file.unlink()


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, the name is the library's
        """A scrape every few seconds is no news."""


def serve(settings: Settings, folder: Path, own: Own) -> bool:
    """Serve `/metrics` and `/ready` from a thread; False where the port is taken: that is logged, and jobs go on.

    `/ready` is 200 while this worker takes jobs, 503 while it does not.
    """
    registry = CollectorRegistry()
    ProcessesCollector(registry, folder)
    registry.register(StandingCollector(settings, own))
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, object], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            answered: Iterable[bytes] = metrics(environ, start_response)
            return answered
        status, body = "404 Not Found", b"/metrics or /ready\n"
        if environ["PATH_INFO"] == "/ready":
            ready = own.consuming()
            status, body = ("200 OK", b"consuming\n") if ready else ("503 Service Unavailable", b"not consuming\n")
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    address, port = settings.metrics_address, settings.metrics_port
    try:
        server = make_server(address, port, answer, ThreadingWSGIServer, handler_class=_Silent)
    except OSError as error:
        log.error(
            "no metrics: the port can't be had, give each worker of a host its own BILLING_METRICS_PORT, or 0",
            address=address,
            port=port,
            error=error.strerror,
        )
        return False
    # A child that is forked later must not keep the port when this process has ended.
    os.register_at_fork(after_in_child=server.socket.close)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("metrics", url=f"http://{address}:{port}/metrics")
    return True
