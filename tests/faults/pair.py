"""Two servers of a database: a primary, and a standby that has all that was promised."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from tests.fixtures.brokers import answers

IN_STEP_TIMEOUT_S = 90.0
"""The longest that a standby may take to be made anew and to have caught up."""
DEMOTED_S = 3.0
"""How long a primary that is to become a standby refuses writes in sessions that stay open."""


class Server(Protocol):
    """One of the two."""

    port: int

    def start(self) -> None:
        """Start, and recover if need be."""

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends all sessions, and sends a standby all there is; `immediate` leaves recovery to the next start."""

    def kill(self) -> None:
        """SIGKILL: no session is told anything."""


S = TypeVar("S", bound=Server)


class Pair(ABC, Generic[S]):
    """What an operator, or a program of his, does with two servers.

    A commit returns when the standby has it on disk, so a standby that is promoted has all that was promised. While
    there is no standby, none is waited for. Only when there is one again may the next failover come.
    """

    def __init__(self, primary: S, standby: S) -> None:
        self.primary, self.standby = primary, standby
        self.servers = (primary, standby)
        self._joining: threading.Thread | None = None
        self._failed: Exception | None = None

    @property
    @abstractmethod
    def ports(self) -> Sequence[int]:
        """Those that clients are to know."""

    @property
    @abstractmethod
    def port(self) -> int:
        """The one of these that leads to the primary."""

    @abstractmethod
    def url(self, ports: Sequence[int]) -> str:
        """The address of the database; `ports`: those that clients are to know, or of what stands before each."""

    @abstractmethod
    def start(self) -> None:
        """Make both; returns when they are in step."""

    @abstractmethod
    def demote(self) -> None:
        """They change places in order: open sessions are refused writes, and are ended some seconds later."""

    @abstractmethod
    def _promote(self) -> None:
        """The standby becomes the primary, and relies on no standby."""

    @abstractmethod
    def _rebuild(self) -> None:
        """Make the standby anew, and rely on it."""

    def failover(self, how: Callable[[Server], None]) -> None:
        """The primary dies as `how` says, the standby is promoted; the dead one is rebuilt in the background."""
        self.wait()
        how(self.primary)
        self._promote()
        self._in_background(self._rebuild)

    def _in_background(self, work: Callable[[], None]) -> None:
        def carry_out() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001, told by `wait`, in the thread of who waits
                self._failed = error

        self._joining = threading.Thread(target=carry_out, name="standby")
        self._joining.start()

    def wait(self) -> None:
        """Return when the standby is in step again. Raises what kept it from being so."""
        if self._joining is not None:
            self._joining.join(2 * IN_STEP_TIMEOUT_S)
            assert not self._joining.is_alive(), "the standby is still being made"
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """End both."""
        if self._joining is not None:
            self._joining.join(2 * IN_STEP_TIMEOUT_S)
        for server in self.servers:
            if answers(server.port):
                server.stop("immediate")
