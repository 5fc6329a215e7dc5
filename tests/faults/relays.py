"""The ways in which a relay calls billing, and how a relay of each is started."""

import sys
from enum import StrEnum
from pathlib import Path

from tests.fixtures.golang import RELAY, go

HTTP_RELAY = (sys.executable, "-m", "tests.faults.http_relay")


class Way(StrEnum):
    """How a relay calls."""

    IN_PROCESS = "in-process"
    HTTP = "http"
    GO = "go"
    """Over HTTP as well."""


MIXES = {
    "mix": (Way.IN_PROCESS, Way.HTTP, Way.GO),
    "http": (Way.HTTP, Way.GO),
    "in-process": (Way.IN_PROCESS, Way.IN_PROCESS),
}
"""What `make chaos RELAYS=…` may name: a relay for each."""


def over_http(way: Way, folder: Path) -> tuple[str, ...]:
    """The command of a relay that calls a door; its URL, the diary and the seed are to follow. Go's is built once."""
    if way is Way.HTTP:
        return HTTP_RELAY
    binary = folder / "gorelay"
    if not binary.exists():
        go("go", "build", "-o", str(binary), ".", cwd=RELAY)
    return (str(binary),)
