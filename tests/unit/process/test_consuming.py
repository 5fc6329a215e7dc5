"""What a running consumer tells of its pool."""

import os
import subprocess
import sys
from types import SimpleNamespace

from worker.process.consuming import children_of


def _ended() -> int:
    """The id of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_child_that_is_about_to_start_is_not_counted() -> None:
    consumer = SimpleNamespace(pool=SimpleNamespace(info={"processes": [os.getpid(), None, _ended()]}))
    assert children_of(consumer) == 1
