"""prometheus_client chooses where it counts when it is imported; a worker chooses later."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.workers import ROOT

COUNTED = """
import os, sys
import prometheus_client
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
if sys.argv[2] == "patched":
    from worker.patches import count_values
    count_values.in_files()
prometheus_client.Counter("x", "x").inc(3)
"""


@pytest.mark.parametrize(("how", "files"), [("patched", 1), ("by the variable alone", 0)])
def test_what_is_made_after_the_import_counts_into_files_only_when_patched(
    how: str, files: int, tmp_path: Path
) -> None:
    env = {name: value for name, value in os.environ.items() if name.lower() != "prometheus_multiproc_dir"}
    command = [sys.executable, "-c", COUNTED, str(tmp_path), how]
    subprocess.run(command, env=env, cwd=ROOT, timeout=60, check=True)
    assert len(list(tmp_path.glob("counter_*.db"))) == files
