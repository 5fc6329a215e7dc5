"""An answer as the bytes that go out."""

from collections.abc import Iterable
from http import HTTPStatus

from api.answers import Answer
from api.problems import Problem

_STATUS_LINES = {
    int(each): f"HTTP/1.1 {int(each)} {Problem.phrase(each)}\r\ncontent-length: ".encode() for each in HTTPStatus
}


def response(made: Answer, usual: Iterable[tuple[bytes, bytes]], *, last: bool, without_body: bool) -> bytes:
    """Head and body. `usual`: headers that every answer has; `last`: the connection closes after it."""
    parts = [_STATUS_LINES[made.status], b"%d\r\n" % len(made.body)]
    for name, value in (*usual, *made.headers):
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"connection: close\r\n\r\n" if last else b"\r\n")
    if not without_body:
        parts.append(made.body)
    return b"".join(parts)
