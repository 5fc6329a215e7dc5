"""What a worker's processes have counted, read while they come and go."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from worker.consumer import children_of
from worker.exposition import ProcessesCollector


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


def test_a_child_that_is_about_to_start_is_not_counted() -> None:
    consumer = SimpleNamespace(pool=SimpleNamespace(info={"processes": [os.getpid(), None, _ended()]}))
    assert children_of(consumer) == 1
