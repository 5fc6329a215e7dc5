"""What a worker's processes have counted, read while they come and go."""

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from tests.fixtures.workers import ROOT
from worker.patches.count_files import ProcessesCollector


def _ended() -> int:
    """The id of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _counted(folder: Path, pid: int, value: float) -> None:
    values = MmapedDict(str(folder / f"counter_{pid}.db"))
    values.write_value(mmap_key("billing_jobs", "billing_jobs_total", [], [], "Jobs"), value, 0.0)
    values.close()


def test_counts_of_processes_that_are_gone_are_kept_whatever_the_others_files_look_like(tmp_path: Path) -> None:
    gone, killed_at_birth = _ended(), _ended()
    _counted(tmp_path, gone, 3)
    _counted(tmp_path, os.getpid(), 4)
    # A process makes its file first, and room in it then.
    (tmp_path / f"counter_{killed_at_birth}.db").touch()
    (tmp_path / f"histogram_{killed_at_birth}.db").touch()
    (tmp_path / f"counter_{os.getppid()}.db").touch()
    registry = CollectorRegistry()
    ProcessesCollector(registry, tmp_path)
    for _ in range(2):
        assert registry.get_sample_value("billing_jobs_total") == 7
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"counter_ended.db", f"counter_{os.getpid()}.db", f"counter_{os.getppid()}.db"}


OBSERVED = """
from worker.patches import count_values
count_values.in_files()
from prometheus_client import Histogram
waits = Histogram("waits_seconds", "Waits", ["task"], buckets=(1, 10))
for seconds in (0.5, 5):
    waits.labels("t").observe(seconds)
"""


def test_histograms_of_processes_that_are_gone_are_folded_without_being_summed_twice(tmp_path: Path) -> None:
    for _ in range(2):
        env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", OBSERVED], env=env, cwd=ROOT, timeout=60, check=True)
    registry = CollectorRegistry()
    ProcessesCollector(registry, tmp_path)
    for _ in range(2):
        buckets = [registry.get_sample_value("waits_seconds_bucket", {"task": "t", "le": le}) for le in ("1.0", "10.0")]
        assert buckets == [2, 4]
        assert registry.get_sample_value("waits_seconds_sum", {"task": "t"}) == 11
    assert [file.name for file in tmp_path.iterdir()] == ["histogram_ended.db"]
