"""One request, as a route needs it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from api.limits import MAX_BODY
from api.problems import Problem
from relay_billing.domain.errors import InvalidRequest

JSON_TYPE = b"application/json"

_LONE_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class HungUp(Exception):
    """The caller is gone: nobody waits for an answer."""


@dataclass(slots=True)
class Call:
    """One request."""

    method: str
    path: bytes
    """As it was sent, percent-encoded."""
    query: bytes
    headers: dict[bytes, bytes]
    """By lower-case name."""
    sent: bytes | None
    """Its body; None: it has more bytes than a body may have."""
    server: tuple[str, int | None] | None
    """The address at which it came in; None: a UNIX socket."""
    gone: Callable[[], bool]
    """Whether the caller has hung up."""
    raw_id: bytes = b""
    """What the path names, percent-encoded; empty: nothing."""
    request_id: str | None = None
    """The session that the call is about, for its problems; None: not known yet."""

    def body(self) -> bytes:
        """The whole body. Raises Problem for another type than JSON, or too many bytes."""
        if self.sent is None:
            # The rest of it is not read: the connection ends with the answer.
            raise Problem(413, "body_too_large", f"a body has at most {MAX_BODY:,} bytes")
        if self.sent and self.headers.get(b"content-type") != JSON_TYPE:
            self._check_type(self.headers.get(b"content-type", b""))
        return self.sent

    def _check_type(self, given: bytes) -> None:
        kind, _, parameters = given.partition(b";")
        charset = parameters.strip().lower().replace(b'"', b"")
        if kind.strip().lower() != JSON_TYPE or charset not in (b"", b"charset=utf-8"):
            shown = given.decode("latin-1") or "none"
            raise Problem(
                415, "unsupported_media_type", f"the body must be {JSON_TYPE.decode()}, in UTF-8, got {shown}"
            )

    def path_text(self, name: str) -> str:
        """What the path names, decoded once. Raises InvalidRequest, naming `name`, where that can't be done."""
        raw = self.raw_id
        if _LONE_PERCENT.search(raw):
            raise InvalidRequest(name, "has a % in the path that two hexadecimal digits don't follow; write it as %25")
        try:
            return unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise InvalidRequest(name, "is no UTF-8 in the path") from None
