"""A file that a living worker touches: cheaper than asking over the broker, and true when the broker is away."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

INTERVAL_S = 1.0
STALE_AFTER_S = 30.0


def heartbeat_file(var_dir: str, role: str) -> Path:
    """Where `role` (worker, beat) of this host leaves its sign of life."""
    return Path(var_dir) / f"{role}.heartbeat"


def beat_forever(file: Path, also: Callable[[], None] | None = None) -> None:
    """Touch `file` every second from a thread of its own, as long as this process lives.

    `also` is called each time; unset: nothing is.
    """
    stop = threading.Event()

    def touch() -> None:
        while not stop.wait(INTERVAL_S):
            file.touch()
            if also is not None:
                also()

    file.touch()
    threading.Thread(target=touch, name="heartbeat", daemon=True).start()


def age_s(file: Path) -> float | None:
    """Seconds since the last sign of life; None: there was none."""
    try:
        return max(0.0, time.time() - os.stat(file).st_mtime)
    except FileNotFoundError:
        return None
