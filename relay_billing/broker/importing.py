"""Imports on a thread of its own that forks wait for: one in the midst of them leaves the child half a module."""

import os
import threading

FORK_TIMEOUT_S = 10.0
"""How long a fork waits for what is imported. Celery takes a tenth of a second, on a machine at rest."""


class _Importing:
    """Held while something is imported, and by whoever forks."""

    def __init__(self) -> None:
        # Reentrant: what is imported may fork itself.
        self._lock = threading.RLock()
        self._held = False
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._after)

    def _before(self) -> None:
        self._held = self._lock.acquire(timeout=FORK_TIMEOUT_S)

    def _after(self) -> None:
        if self._held:
            self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


importing = _Importing()
