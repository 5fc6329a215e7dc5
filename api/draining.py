"""The end of a door: it says that it is not ready, goes on answering for a while, and only then lets the server end."""

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

log = logging.getLogger("api")

DRAIN_S = 3.0
"""Seconds between a SIGTERM and the closing of the port, for load balancers to see that `/readyz` is 503."""
FINISH_S = 20
"""Seconds that the server then waits for requests in hand: longer than a call to the database may take."""


class Draining:
    """Stands before the server's own handler of SIGTERM. A second SIGTERM, or SIGINT, ends without the wait."""

    def __init__(self, drain_s: float = DRAIN_S) -> None:
        self.begun = False
        self._drain_s = drain_s

    def watch(self) -> None:
        """Take SIGTERM over from the server, which has its handler in place by the time the application starts."""
        before = signal.getsignal(signal.SIGTERM)
        loop = asyncio.get_running_loop()

        def end(number: int, frame: FrameType | None) -> None:
            if callable(before):
                before(number, frame)

        def heard(number: int, frame: FrameType | None) -> None:
            if self.begun:
                end(number, frame)
            else:
                self.begun = True
                loop.call_soon_threadsafe(self._begin, lambda: end(number, None))

        signal.signal(signal.SIGTERM, heard)

    def _begin(self, end: Callable[[], None]) -> None:
        log.info("not ready any more, ends in %g seconds", self._drain_s)
        asyncio.get_running_loop().call_later(self._drain_s, end)
