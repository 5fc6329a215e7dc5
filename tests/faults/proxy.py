"""A TCP proxy that misbehaves when asked to."""

import itertools
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

CHUNK = 65_536
LOOK_EVERY_S = 0.05


@dataclass(eq=False)
class Proxy:
    """Listens on a port of its own and passes on to `target`, or, with `others`, to the next one that takes it.

    One thread a connection.
    """

    target: int
    others: tuple[int, ...] = ()
    """Ports that do the same as `target`: connections go to each in turn, past those that refuse them."""
    delay_s: float = 0
    half_open: bool = False
    """Takes what comes and passes nothing on: the peer sees an open connection that never answers."""
    black: bool = False
    """Takes nothing and passes nothing on, while both kernels acknowledge what fits into their buffers. Nothing is
    lost: what waits is passed on when it ends."""
    loses: bytes = b""
    """What is read with these bytes in it is lost, as in a box between the two that fails over; unset: nothing is."""
    lost: int = 0
    """How often that was."""
    cuts: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _turns: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=f"proxy to {self.target}", daemon=True).start()

    def cut(self) -> None:
        """Close every connection."""
        self.cuts += 1

    def close(self) -> None:
        """Stop listening and close everything."""
        self._stopped.set()
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                # Closed: that is how this thread ends.
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _connected(self) -> socket.socket | None:
        targets = (self.target, *self.others)
        turn = next(self._turns)
        for number in range(len(targets)):
            try:
                return socket.create_connection(("127.0.0.1", targets[(turn + number) % len(targets)]), timeout=5)
            except OSError:
                # This one is down; without another one the connection is, too.
                continue
        return None

    def _serve(self, near: socket.socket) -> None:
        born = self.cuts
        far = self._connected()
        if far is None:
            near.close()
            return
        for each in (near, far):
            # Without it every small packet waits 40 ms for an acknowledgement that is delayed.
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with near, far, selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while self.cuts == born:
                if self.black:
                    self._stopped.wait(LOOK_EVERY_S)
                    continue
                for key, _ in selector.select(LOOK_EVERY_S):
                    if not self._pass_on(key.fileobj, key.data):  # type: ignore[arg-type]
                        return

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> bool:
        try:
            data = source.recv(CHUNK)
            if not data:
                return False
            if self.delay_s:
                time.sleep(self.delay_s)
            if self.loses and self.loses in data:
                self.lost += 1
            elif not self.half_open:
                sink.sendall(data)
        except OSError:
            # Either end is gone: the connection is over.
            return False
        return True
