"""Where the processes of a worker count: a folder for each worker, with files for each of its processes."""

import os
import shutil
from pathlib import Path

from prometheus_client import values

from worker.signs import alive

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""What prometheus_client looks at."""


def prepare(var_dir: str) -> Path:
    """Make an empty folder for this process and the children it will have; remove those of workers that are gone.

    Called before the first counter is made. Raises OSError where the folder can't be.
    """
    folders = Path(var_dir).absolute() / "metrics"
    own = folders / str(os.getpid())
    for folder in folders.glob("[0-9]*"):
        if folder == own or not alive(int(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)
    own.mkdir(parents=True)
    os.environ[VARIABLE] = str(own)
    # Chosen when prometheus_client is imported, and Celery's command line has imported it already, with Flower.
    values.ValueClass = values.MultiProcessValue()
    return own
