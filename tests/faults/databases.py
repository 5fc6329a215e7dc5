"""The databases that a site may have: what all of them can do."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tests.faults.mariadb import MariaDB
from tests.faults.pair import Pair


class Server(Protocol):
    """One process of a database."""

    port: int

    def start(self) -> None:
        """Start, and recover if need be."""

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends all sessions in order; `immediate` leaves recovery to the next start."""


class Database(Protocol):
    """One or more servers, of which one takes writes."""

    @property
    def primary(self) -> Server:
        """Who takes writes."""

    @property
    def servers(self) -> Sequence[Server]:
        """All, in the order in which `url` takes their ports."""

    def url(self, ports: Sequence[int]) -> str:
        """Its address; `ports`: those of the servers, or of what stands before each of them."""

    def start(self) -> None:
        """Make and start everything."""

    def stop(self) -> None:
        """End everything."""


DATABASES: dict[str, Callable[[Path], Database]] = {"postgresql": Pair, "mariadb": MariaDB}
"""What `make chaos DATABASE=…` may name."""
