"""A lock that makes forks wait for imports: a fork during an import leaves the child a half-loaded module."""

import os
import threading

FORK_TIMEOUT_S = 10.0
"""Seconds that a fork waits for an import. Celery's takes 0.1 s on an idle machine."""


class _Importing:
    """The lock; held during an import, and during a fork."""

    def __init__(self) -> None:
        # Reentrant: an imported module may fork itself.
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
