"""One request, as its connection reads it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import httptools

from api.answers import Answer
from api.call import Call


@dataclass(slots=True)
class Asked:
    """One request, as far as it has come."""

    target: bytes = b""
    method: str = ""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    """By lower-case name; no trailers, which nobody in between has checked."""
    body: bytearray = field(default_factory=bytearray)
    too_large: bool = False
    keep: bool = True
    """Whether the connection stays open after the answer."""
    refused: Answer | None = None
    """What answers it in place of the gate."""

    def call(self, server: tuple[str, int | None] | None, gone: Callable[[], bool]) -> Call:
        """The request as a route needs it; the arguments are the connection's (`Call`)."""
        path, _, query = self._origin().partition(b"?")
        body = None if self.too_large else bytes(self.body)
        return Call(self.method, path, query, self.headers, body, server, gone)

    def _origin(self) -> bytes:
        """The target from its path on: a proxy may ask with the whole URL."""
        if self.target.startswith(b"/") or b"://" not in self.target:
            return self.target
        try:
            url = httptools.parse_url(self.target)
        except httptools.HttpParserInvalidURLError:
            # No path of ours.
            return self.target
        return (url.path or b"/") + (b"?" + url.query if url.query else b"")
