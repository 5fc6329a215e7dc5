"""HTTP/1.1 as uvicorn speaks it, with bounds that it has none for: slow senders, endless heads, callers who don't read.

Read in uvicorn 0.54: `HttpToolsProtocol` is given to `uvicorn --http` by its name, which is public; its callbacks are
those of asyncio's protocols and of httptools' parser. `timeout_keep_alive` begins only after an answer, and nothing
bounds the time or the size of a head. `tests/integration/test_api_faults.py` fails when these parts move.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.problems import Problem, answer_of

IDLE_S = 120
"""Seconds that a connection may wait for a request: more than the 90 after which Go's clients close theirs, so that
the caller closes first, and no request meets a connection that closes."""
REQUEST_S = 10.0
"""Seconds within which a request must have come, head and body."""
ANSWER_S = 60.0
"""Seconds within which it must have been answered, and the answer taken; a call to the database has 15."""
MAX_HEAD = 65_536
"""Bytes of a head."""
REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
LOOK_S = 5.0
"""Seconds between looks at a connection: a limit is kept within these. No timer is made for a request."""


class JoinedWrites:
    """A transport whose writes of one turn of the event loop go out together.

    uvicorn writes the head and the body of an answer one after the other, each a system call and a packet: that was a
    fifth of the door's time, and two wake-ups of each caller.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._kept: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep `data` until this turn ends."""
        if not self._kept:
            self._loop.call_soon(self._send)
        self._kept.append(data)

    def _send(self) -> None:
        if self._kept:
            self._transport.write(b"".join(self._kept))
            self._kept.clear()

    def close(self) -> None:
        """Write what is kept, then close."""
        self._send()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401, everything else is the transport's own
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401, uvicorn's own
        super().__init__(*args, **options)
        self._began: float | None = None
        """When the request that is coming began; None: none is."""
        self._came: float = 0.0
        """When the last request had come."""
        self._head: int | None = 0
        """Bytes of the head that is coming; None: it has come."""
        self._look_at: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected."""
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._look_at = self.loop.call_later(LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """He has gone."""
        if self._look_at is not None:
            self._look_at.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._began is None:
            self._began = self.loop.time()
        super().data_received(data)
        if self._head is not None and self._began is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._refuse(Problem(431, "head_too_large", f"a head has at most {MAX_HEAD:,} bytes"))

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the words of uvicorn."""
        self._refuse(Problem(400, "invalid_request", msg))

    def on_headers_complete(self) -> None:
        """A head has come."""
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request has come."""
        self._began, self._head, self._came = None, 0, self.loop.time()
        super().on_message_complete()

    def _look(self) -> None:
        now = self.loop.time()
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._began is not None and now - self._began > REQUEST_S:
            self._refuse(Problem(408, "request_timeout", f"the request did not come within {REQUEST_S:g} seconds"))
        elif answering and self._began is None and now - self._came > ANSWER_S:
            self.transport.abort()
        else:
            self._look_at = self.loop.call_later(LOOK_S, self._look)

    def _refuse(self, problem: Problem) -> None:
        """Answer, unless an answer is on its way already, and close."""
        before = self.cycle is None or self.cycle.response_complete
        if not self.transport.is_closing() and (before if self._head is not None else not self.cycle.response_started):
            made = answer_of(problem, None)
            lines = [
                b"HTTP/1.1 %d %s" % (problem.status, REASONS[problem.status]),
                *(name + b": " + value for name, value in made.headers),
                b"content-length: %d" % len(made.body),
                b"connection: close",
            ]
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + made.body)
        self.transport.close()
