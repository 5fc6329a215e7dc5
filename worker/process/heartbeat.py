"""A file that a live process touches: cheaper than a broadcast, and right while the broker is away too."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

INTERVAL_S = 1.0
STALE_AFTER_S = 30.0


class Heartbeat:
    """The heartbeat of one role (worker, beat) on this host."""

    def __init__(self, var_dir: str, role: str) -> None:
        self.file = Path(var_dir) / f"{role}.heartbeat"

    def beat_forever(self, also: Callable[[], None] | None = None) -> None:
        """Touch the file every second from a thread of its own, as long as this process lives.

        Its text is the time of the start, in Unix seconds. `also` is called at each touch; unset: nothing is.
        """
        stop = threading.Event()

        def touch() -> None:
            while not stop.wait(INTERVAL_S):
                self.file.touch()
                if also is not None:
                    also()

        self.file.write_text(f"{time.time():.0f}")
        threading.Thread(target=touch, name="heartbeat", daemon=True).start()

    def began_at(self) -> float | None:
        """Unix seconds at which the process started its heartbeat; None: there is no file, or it is being written."""
        try:
            return float(self.file.read_text())
        except (FileNotFoundError, ValueError):
            # It was never there, or is being written.
            return None

    def age_s(self) -> float | None:
        """Seconds since the file was last touched; None: it never was."""
        try:
            return max(0.0, time.time() - os.stat(self.file).st_mtime)
        except FileNotFoundError:
            return None
