"""One request, as a route needs it."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from api.problems import Problem
from relay_billing.domain.errors import InvalidRequest

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_BODY = 2**20
"""Bytes of a body: 500 holds have a third of it."""
JSON_TYPE = b"application/json"

_LONE_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class HungUp(Exception):
    """The caller is gone: nobody waits for an answer."""


@dataclass(slots=True)
class Call:
    """One request, before its body is read."""

    headers: dict[bytes, bytes]
    query: bytes
    receive: Receive
    raw_id: bytes = b""
    """What the path names, percent-encoded; empty: nothing."""
    request_id: str | None = None
    """The session that the call is about, for its problems; None: not known yet."""

    async def body(self) -> bytes:
        """The whole body. Raises Problem for another type than JSON, or too many bytes; HungUp."""
        headers = self.headers
        said = headers.get(b"content-length")
        if said is not None and int(said) > MAX_BODY:
            raise _too_large()
        message = await self.receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body", False):
            if len(body) > MAX_BODY:
                raise _too_large()
            message = await self.receive()
            body += message.get("body", b"")
        if message["type"] != "http.request":
            raise HungUp
        if len(body) > MAX_BODY:
            raise _too_large()
        if body and headers.get(b"content-type") != JSON_TYPE:
            self._check_type(headers.get(b"content-type", b""))
        return body

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


def _too_large() -> Problem:
    # The rest of the body is not read: the connection ends with the answer.
    return Problem(
        413, "body_too_large", f"a body has at most {MAX_BODY:,} bytes", headers=((b"connection", b"close"),)
    )


def hung_up(receive: Receive) -> bool:
    """Whether the caller has gone, looked up without waiting: the first step of `receive`, and no more of it.

    To await it would be a task for each request, though nearly every caller stays.
    """
    waiting = receive()
    try:
        step = waiting.__await__()
        next(step)
    except StopIteration as known:
        return bool(known.value["type"] == "http.disconnect")
    step.close()
    return False
