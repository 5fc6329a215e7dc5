"""HTTP/1.1 over one connection: httptools reads, uvicorn has sockets, TLS and the end, and the rest is here.

No ASGI between: its scope and messages, and what uvicorn keeps for them, cost as much as the gate behind them. uvicorn
makes a `Connection` for each caller (`uvicorn --http`), with the arguments of its own protocols, and calls its
`shutdown`; read in 0.54. `tests/integration/test_api_protocol.py` fails when these parts move.
"""

import asyncio
import logging
from collections import deque
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from api.answers import Answer
from api.asked import Asked
from api.gate import Gate
from api.limits import ANSWER_S, IDLE_S, LOOK_S, MAX_BODY, MAX_DROPPED, MAX_HEAD, MAX_WAITING, REQUEST_S
from api.problems import Problem
from api.response import response

log = logging.getLogger("api")

GATE = "gate"
"""Where the application keeps its gate in the state of its lifespan, which uvicorn gives to each connection."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """One caller's connection: answers its requests one after the other."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """The arguments are uvicorn's; `app_state` has the gate."""
        self._gate: Gate = app_state[GATE]
        self._server = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._address: tuple[str, int | None] | None = None
        """At which it came in; None: a UNIX socket."""
        self._coming = Asked()
        self._head: int | None = 0
        """Bytes of the head that is coming; None: it has come, its body has not."""
        self._rest = 0
        """Bytes that have come since the head: of the body, of what is around its chunks, of trailers."""
        self._continues = False
        """Whether the caller waits to be asked for the body."""
        self._began: float | None = None
        """When the request that is coming began; None: none is."""
        self._waiting: deque[Asked] = deque()
        """Requests that have come while another one was answered."""
        self._answering = False
        self._since = self._loop.time()
        """When the last request had come, or was answered."""
        self._full = False
        """Whether the caller is slow to take what he was sent."""
        self._paused = False
        """Whether nothing is read until the requests that wait are answered."""
        self._ending = False
        """Whether it closes after the requests that have come; no other one is read."""
        self._unread = False
        """Whether the caller may still be sending what is not read."""
        self._lingering = False
        """Whether all is answered, and what still comes is dropped."""
        self._dropped = 0
        """Bytes that came and were not read."""
        self._look_at: asyncio.TimerHandle | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller has connected."""
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("sockname")
        self._address = (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
        self._server.connections.add(self)  # type: ignore[arg-type]
        self._look_at = self._loop.call_later(LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """He has gone. What is in hand is finished; what waits behind it was never begun."""
        self._server.connections.discard(self)
        self._waiting.clear()
        if self._look_at is not None:
            self._look_at.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._ending:
            self._dropped += len(data)
            if self._dropped > MAX_DROPPED:
                self._transport.abort()
            return
        if self._head is not None:
            self._head += len(data)
        else:
            self._rest += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request is answered as if it had not asked for another protocol; what follows it can't be read.
            self._ending = True
            if not (self._answering or self._waiting or self._lingering):
                self._go_on()
        except httptools.HttpParserCallbackError:
            log.exception("a request could not be read, by a fault of this door")
            self._transport.abort()
        except httptools.HttpParserError:
            self._refuse(Problem(400, "invalid_request", "the request is no HTTP/1.1"))
        else:
            if self._head is not None and self._head > MAX_HEAD:
                self._refuse(Problem(431, "head_too_large", f"a head has at most {MAX_HEAD:,} bytes"))
            elif self._head is None and self._rest > MAX_DROPPED:
                self._cut()

    def pause_writing(self) -> None:
        """The caller is slow to take what he was sent."""
        self._full = True

    def resume_writing(self) -> None:
        """He has taken it."""
        self._full = False
        if self._lingering:
            self._since = self._loop.time()
        elif not self._answering:
            self._go_on()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request begins."""
        self._coming, self._head = Asked(), self._head or 0
        if self._began is None:
            self._began = self._loop.time()

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._coming.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of its head."""
        if self._head is not None:
            self._coming.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Its head has come."""
        coming, self._head, self._rest = self._coming, None, 0
        if self._ending:
            return
        coming.method = self._parser.get_method().decode()
        current, upgrades = self._parser.get_http_version() == "1.1", self._parser.should_upgrade()
        coming.keep = self._parser.should_keep_alive() and current and not upgrades
        self._unread = upgrades
        length = int(coming.headers.get(b"content-length", b"0"))
        if upgrades and (length or b"transfer-encoding" in coming.headers):
            # The parser takes what follows such a head for another protocol, not for a body.
            coming.refused = self._refusal(Problem(400, "invalid_request", "no other protocol: ask without Upgrade"))
        elif length > MAX_BODY:
            self._cut()
        elif current and coming.headers.get(b"expect", b"").lower() == b"100-continue":
            self._continues = True
            if not self._answering:
                self._go_on()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._coming.body += body
        if len(self._coming.body) > MAX_BODY:
            self._cut()

    def on_message_complete(self) -> None:
        """It has come."""
        coming, self._coming = self._coming, Asked()
        self._began, self._head, self._continues = None, 0, False
        if not self._ending:
            self._take(coming)

    # What comes of it.

    def _cut(self) -> None:
        """Take a request whose body is too large, without the rest of it."""
        if not self._ending:
            self._coming.too_large, self._began, self._unread = True, None, True
            self._ending = True
            self._take(self._coming)

    def _refuse(self, problem: Problem) -> None:
        """Answer what can't be read any further, after what came before it."""
        if not self._ending:
            refused = self._refusal(problem)
            self._began, self._unread = None, True
            self._ending = True
            self._take(Asked(refused=refused))

    def _refusal(self, problem: Problem) -> Answer:
        now = self._loop.time()
        return self._gate.refusal(problem, now - (self._began or now))

    def _take(self, asked: Asked) -> None:
        self._waiting.append(asked)
        if not self._answering and not self._full:
            self._go_on()
        elif not self._paused and (self._full or len(self._waiting) >= MAX_WAITING):
            # Not at the first: while nothing is read, nobody sees a caller go.
            self._paused = True
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Begin the next request; without one, wait for it, or close."""
        self._since = self._loop.time()
        if self._transport.is_closing():
            self._waiting.clear()
        while self._waiting and not self._full:
            asked = self._waiting.popleft()
            if asked.refused is None:
                self._answering = True
                task = self._loop.create_task(self._answer(asked))
                # uvicorn waits for them when it ends.
                self._server.tasks.add(task)
                task.add_done_callback(self._server.tasks.discard)
                return
            self._send(asked, asked.refused)
        if self._transport.is_closing() or self._waiting:
            return
        if self._ending:
            self._close()
        elif not self._full:
            if self._continues:
                self._continues = False
                self._transport.write(_CONTINUE)
            if self._paused:
                self._paused = False
                # Its time begins anew: it was kept from coming.
                self._began = self._began and self._since
                self._transport.resume_reading()

    def _close(self) -> None:
        """Close; while the caller still sends, only our side: a reset would take the answer from him."""
        if self._lingering or not self._unread or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._lingering = True
        self._transport.write_eof()
        if self._paused:
            self._transport.resume_reading()

    async def _answer(self, asked: Asked) -> None:
        try:
            made = await self._gate.answer(asked.call(self._address, self._transport.is_closing))
            if made is not None:
                self._send(asked, made)
        except BaseException:
            # Without its answer, the next one would be taken for it.
            self._transport.abort()
            raise
        finally:
            self._answering = False
        self._go_on()

    def _send(self, asked: Asked, made: Answer) -> None:
        self._server.total_requests += 1
        if self._transport.is_closing():
            return
        last = not asked.keep or (self._ending and not self._waiting)
        usual = self._server.default_headers
        self._transport.write(response(made, usual, last=last, without_body=asked.method == "HEAD"))
        if last:
            self._ending = True
            self._waiting.clear()

    # Time.

    def _look(self) -> None:
        """Keep the limits of time."""
        now = self._loop.time()
        self._look_at = self._loop.call_later(LOOK_S, self._look)
        if self._lingering:
            if now - self._since > LOOK_S:
                self._transport.abort()
        elif self._answering or self._full or self._transport.is_closing():
            if now - self._since > ANSWER_S:
                self._transport.abort()
        elif self._began is not None:
            if now - self._began > REQUEST_S:
                self._refuse(Problem(408, "request_timeout", f"the request did not come within {REQUEST_S:g} seconds"))
        elif now - self._since > IDLE_S:
            self._transport.close()

    def shutdown(self) -> None:
        """Finish what has come, then close; uvicorn calls it when it ends."""
        self._ending = True
        if not self._answering:
            self._go_on()
