"""Which path is what: found on the path as it was sent, so that an id may hold anything, `/` and `%` included."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from api.answers import Answer
from api.call import Call
from relay_billing.domain.api_keys import Scope

Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """One path, with what answers its one method."""

    path: str
    """With `{name}` for a segment that names something; what metrics call it."""
    method: str
    handler: Handler
    scope: Scope | None = None
    """What a key needs; None: no key is needed."""
    counted: bool = True
    """Whether it counts as in hand; what watches the door does not, so it is answered when the door is full."""

    @property
    def allow(self) -> str:
        """The methods that the path has."""
        return "GET, HEAD" if self.method == "GET" else self.method

    def takes(self, method: str) -> bool:
        """Whether the path has this method."""
        return method == self.method or (method == "HEAD" and self.method == "GET")


class Routes:
    """All routes. A path has one method, and at most one segment that names something."""

    def __init__(self, routes: list[Route]) -> None:
        self._fixed: dict[bytes, Route] = {}
        self._named: dict[tuple[bytes, bytes], Route] = {}
        for route in routes:
            before, brace, rest = route.path.encode().partition(b"{")
            if brace:
                self._named[before, rest.partition(b"}")[2]] = route
            else:
                self._fixed[before] = route

    def find(self, raw_path: bytes) -> tuple[Route | None, bytes]:
        """The route of a path, and its named segment as it was sent, empty where it has none; None: no route."""
        fixed = self._fixed.get(raw_path)
        if fixed is not None:
            return fixed, b""
        # /v1/noun/id or /v1/noun/id/verb: a slash in an id comes percent-encoded.
        parts = raw_path.split(b"/")
        if not 4 <= len(parts) <= 5 or not parts[3]:
            return None, b""
        before, after = b"/".join(parts[:3]) + b"/", b"/" + parts[4] if len(parts) == 5 else b""
        return self._named.get((before, after)), parts[3]
