"""What goes out, as types, for `openapi`; a session has the fields of `BillingSession`."""

from typing import Required, TypedDict


class EndedFields(TypedDict):
    """The answer to a settle or refund that is safe."""

    request_id: str


class ProblemFields(TypedDict, total=False):
    """An error (RFC 9457)."""

    type: Required[str]
    title: Required[str]
    status: Required[int]
    code: Required[str]
    detail: Required[str]
    skip_retry: Required[bool]
    request_id: str
    field: str
    remaining: int
    needed: int
