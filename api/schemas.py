"""Reads bodies into their types, strictly, and shows sessions."""

import json
import re
from collections.abc import Callable
from typing import Any, Generic, TypedDict, TypeVar, cast, get_type_hints

import msgspec

from api.answers import encode
from api.end_fields import EndFields
from api.fields import RefundFields, ReserveFields, SettleFields
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.requests import HoldFields
from relay_billing.domain.sessions import BillingSession

Fields = TypeVar("Fields")

_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_NAMED = re.compile(r"`(\w+)`")


class Body(Generic[Fields]):
    """Reads a JSON object whose values are no objects, strictly: no unknown field, no field twice, no float."""

    def __init__(self, kind: type[Any], what: str) -> None:
        """`kind`: a TypedDict; `what`: its name in errors. Values out of range are found later, by their users."""
        self._decode: Callable[[bytes | msgspec.Raw], dict[str, Any]] = msgspec.json.Decoder(kind).decode
        self._known = frozenset(get_type_hints(kind))
        self._what = what

    def read(self, body: bytes | msgspec.Raw) -> Fields:
        """The fields that are there. Raises InvalidRequest, naming the field."""
        try:
            fields = self._decode(body)
            # A field brings a colon: as many colons as known fields leave none for a second or an unknown one.
            if bytes(body).count(b":") != len(fields):
                self._look(json.loads(bytes(body), object_pairs_hook=list, parse_int=str))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise refusal(error) from None
        return cast("Fields", fields)

    def _look(self, pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name not in self._known:
                raise InvalidRequest(name[:64], f"is not a field of {self._what}")
            if name in seen:
                raise InvalidRequest(name, "comes twice")
            seen.add(name)


def refusal(error: Exception) -> InvalidRequest:
    """What is wrong with a body that can't be decoded."""
    words = str(error)
    if isinstance(error, msgspec.ValidationError):
        where = _AT.search(words)
        problem = words[: where.start()] if where else words
        missing = _NAMED.search(problem) if "missing required field" in problem else None
        if missing:
            return InvalidRequest(missing[1], "is missing")
        named = where[1] if where and where[1] else "body"
        return InvalidRequest(named, problem[0].lower() + problem[1:].replace("`", ""))
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest("body", "is not UTF-8")
    if isinstance(error, RecursionError):
        return InvalidRequest("body", "is nested too deep")
    return InvalidRequest("body", f"is not JSON: {words[0].lower()}{words[1:]}")


# Which fields are required is left to the hold itself: the request id may come in a header.
HOLD = Body[HoldFields](TypedDict("Hold", get_type_hints(HoldFields), total=False), "a hold")  # type: ignore[operator]
RESERVE = Body[ReserveFields](ReserveFields, "a reserve")
SETTLE = Body[SettleFields](SettleFields, "a settle")
REFUND = Body[RefundFields](RefundFields, "a refund")
END = Body[EndFields](EndFields, "a settle or refund")

ITEMS: Callable[[bytes], list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw]).decode


_NEEDED, _NOT_NEEDED = b',"needs_refund":true}', b',"needs_refund":false}'


def shown(session: BillingSession) -> bytes:
    """A session as callers see it, in JSON: its fields by their own names, and `needs_refund`, which is no field."""
    return encode(session)[:-1] + (_NEEDED if session.needs_refund else _NOT_NEEDED)
