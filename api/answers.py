"""What the door answers, ready to be sent."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

Headers = tuple[tuple[bytes, bytes], ...]

encode = msgspec.json.Encoder().encode
"""A value as JSON. Sessions and balances are encoded as they are: dataclasses, with words for enums."""

JSON: Headers = ((b"content-type", b"application/json"),)
PROBLEM: Headers = ((b"content-type", b"application/problem+json"),)


@dataclass(slots=True)
class Answer:
    """Status, headers and body of one response; its length is added when it is sent."""

    status: int
    headers: Headers
    body: bytes
    code: str | None = None
    """Of a problem: what refusals are counted by; None: it is none."""


def answer(status: int, value: object, headers: Headers = JSON) -> Answer:
    """`value` as JSON."""
    return Answer(status, headers, encode(value))


def problem(status: int, value: Mapping[str, object], headers: Headers = ()) -> Answer:
    """A problem (RFC 9457); `value` has at least its `code`."""
    return Answer(status, PROBLEM + headers, encode(value), str(value["code"]))
