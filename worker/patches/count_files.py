"""Sums the counters that a worker's processes keep in files; the files of ended processes are merged into one.

Read in prometheus_client 0.26: the format of its files (`MmapedDict`, `mmap_key`) and `MultiProcessCollector.merge`.
Its public way, `MultiProcessCollector` with `mark_process_dead`, was tried first: it removes the gauges of a process
that is gone, keeps its counters' files for ever, and fails on a file in which nothing was written yet.
"""

import threading
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from worker.pid import alive

ENDED = "ended"
"""Name of the file that takes the counts of ended children, so that the number of files does not grow."""


def _begun(file: Path) -> bool:
    """Whether the file has content: it is empty at first, and stays so if its process was killed just then."""
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


class ProcessesCollector(MultiProcessCollector):
    """Sums the metrics of the worker's processes; an ended process keeps its counts and loses its gauges."""

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
