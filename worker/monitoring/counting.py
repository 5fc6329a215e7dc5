"""prometheus_client's multiprocess folder: one for each worker, with files for each of its processes."""

import os
import shutil
from pathlib import Path

from worker.patches import count_values
from worker.pid import alive

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that prometheus_client reads."""


def prepare(var_dir: str) -> Path:
    """Make an empty folder for this process and its children; remove the folders of workers that are gone.

    Called before the first counter is made. Raises OSError if the folder can't be made.
    """
    folders = Path(var_dir).absolute() / "metrics"
    own = folders / str(os.getpid())
    for folder in folders.glob("[0-9]*"):
        if folder == own or not alive(int(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)
    own.mkdir(parents=True)
    os.environ[VARIABLE] = str(own)
    count_values.in_files()
    return own
