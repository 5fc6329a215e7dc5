"""Callers of a door, in a process of their own, as lean as Python has them.

`python -m benchmarks.http_callers hold PORT CONNECTIONS SECONDS`: each holds on its connection without a pause; prints
the rate as JSON. `… idle PORT CONNECTIONS`: asks once on each, says `open`, and keeps them until its input ends.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import cast

import uvloop

from benchmarks.measure import Clock, Rate, evenly, request_id

HOST = "127.0.0.1"
HOLD = (
    b"POST /v1/sessions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
)
BODY = b'{"request_id":"%s","user_id":%d,"token_id":%d,"quota":1,"preference":"wallet_first"}'
ASK = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
ANSWERED_WITHIN_S = 60.0
OPENING = 200
"""Connections that are opened together."""


def hold() -> bytes:
    """One that was never asked for."""
    user = evenly()
    body = BODY % (request_id().encode(), user, user)
    return HOLD % (len(body), body)


class Connection(asyncio.Protocol):
    """One kept connection: sends, reads the whole answer, and tells of it; one request at a time."""

    def __init__(self, answered: Callable[["Connection"], None], ended: Callable[[Exception], None]) -> None:
        self._answered, self._ended, self._came = answered, ended, b""
        self.transport: asyncio.Transport
        self.began = 0.0
        self.status = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        # uvloop's has no class in common with asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes) -> None:
        """Ask; the time counts from here."""
        self.began = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """A part of the answer, nearly always all of it."""
        self._came += data
        head, end, body = self._came.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            self.status, self._came = head[9:12], b""
            self._answered(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Closed: the door must not."""
        self._ended(ConnectionError(f"a connection ended: {error}, with {self._came[:200]!r}"))


async def holds(port: int, connections: int, seconds: float) -> Rate:
    """Hold on all connections until the time is over."""
    loop, clock = asyncio.get_running_loop(), Clock(seconds)
    finished: asyncio.Future[None] = loop.create_future()
    left = connections

    def answered(connection: Connection) -> None:
        nonlocal left
        clock.took(connection.began)
        if connection.status != b"201":
            ended(RuntimeError(f"a hold was answered with {connection.status.decode()}"))
        elif clock.running():
            connection.send(hold())
        else:
            left -= 1
            if not left and not finished.done():
                finished.set_result(None)

    def ended(error: Exception) -> None:
        if not finished.done():
            finished.set_exception(error)

    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: Connection(answered, ended), HOST, port)
        connection.send(hold())
    await asyncio.wait_for(finished, seconds + ANSWERED_WITHIN_S)
    return clock.rate()


async def idle(port: int, connections: int) -> None:
    """Open so many, ask once on each, and keep them until the input ends."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()
    answers = 0

    def answered(connection: Connection) -> None:
        nonlocal answers
        answers += 1
        if answers == connections:
            finished.set_result(None)

    def ended(error: Exception) -> None:
        if not finished.done():
            finished.set_exception(error)

    async def opened() -> None:
        _, connection = await loop.create_connection(lambda: Connection(answered, ended), HOST, port)
        connection.send(ASK)

    for start in range(0, connections, OPENING):
        await asyncio.gather(*(opened() for _ in range(min(OPENING, connections - start))))
    await asyncio.wait_for(finished, ANSWERED_WITHIN_S)
    print("open", flush=True)
    finished = loop.create_future()
    reading = loop.run_in_executor(None, sys.stdin.read)
    done, _ = await asyncio.wait({finished, reading}, return_when=asyncio.FIRST_COMPLETED)
    for each in done:
        each.result()


def main() -> None:
    """What the command line asks for."""
    what, port, connections = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if what == "hold":
        print(json.dumps(asdict(uvloop.run(holds(port, connections, float(sys.argv[4]))))))
    else:
        uvloop.run(idle(port, connections))


if __name__ == "__main__":
    main()
