"""Checks of callers' input: each returns the value, or raises InvalidRequest naming the field (semantics §3)."""

import re

from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.money import MAX_QUOTA

MAX_REQUEST_ID = 64
MAX_MODEL_NAME = 255
MAX_REASON = 64
MAX_ID = 2**63 - 1
MAX_BATCH = 500
"""Most items of one batch, that is of one transaction, or of one message on the queue (semantics §9)."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def whole(field: str, value: object, low: int, high: int) -> int:
    """A true int between `low` and `high`: no bool, no float, no numeric string."""
    if type(value) is not int:
        raise InvalidRequest(field, f"must be an integer, got {type(value).__name__} {value!r:.80}")
    if not low <= value <= high:
        raise InvalidRequest(field, f"must be between {low} and {high}, got {value}")
    return value


def quota(field: str, value: object) -> int:
    """An amount of quota: 0 to 2^53."""
    return whole(field, value, 0, MAX_QUOTA)


def row_id(field: str, value: object) -> int:
    """The id of a user, token or subscription."""
    return whole(field, value, 1, MAX_ID)


def text(field: str, value: object, shortest: int, longest: int) -> str:
    """Text that every database can store: no NUL, no half of a surrogate pair."""
    if not isinstance(value, str):
        raise InvalidRequest(field, f"must be text, got {type(value).__name__} {value!r:.80}")
    if not shortest <= len(value) <= longest:
        raise InvalidRequest(field, f"must have {shortest} to {longest} characters, got {len(value)}")
    if "\x00" in value or not (value.isascii() or _SURROGATE.search(value) is None):
        raise InvalidRequest(field, "must not contain NUL or surrogate characters")
    return value


def request_id(value: object) -> str:
    """The id of one relayed request."""
    return text("request_id", value, 1, MAX_REQUEST_ID)


def reason(value: object) -> str | None:
    """Why a session was closed; None: no reason was given."""
    return None if value is None else text("reason", value, 0, MAX_REASON)


def flag(field: str, value: object) -> bool:
    """A true bool; no number, no text."""
    if type(value) is not bool:
        raise InvalidRequest(field, f"must be true or false, got {value!r:.80}")
    return value


def batch(field: str, size: int) -> None:
    """A batch holds 1 to 500 items."""
    if not 1 <= size <= MAX_BATCH:
        raise InvalidRequest(field, f"must hold 1 to {MAX_BATCH} items, got {size}")


def no_unknown(fields: dict[str, object], where: str) -> None:
    """Raise InvalidRequest where a field is left over after all known ones were taken."""
    if fields:
        raise InvalidRequest(sorted(fields)[0], f"is not a field of {where}")
