"""What comes in and goes out, as types: bodies are decoded into them, and `openapi` describes them.

A hold has the fields of `HoldFields`, a session those of `BillingSession`: no list of fields is written twice.
"""

from typing import Required, TypedDict


class ReserveFields(TypedDict):
    """The body of a reserve."""

    target_quota: int


class SettleFields(TypedDict, total=False):
    """The body of a settle."""

    actual_quota: Required[int]
    reason: str | None


class RefundFields(TypedDict, total=False):
    """The body of a refund; none at all is as good."""

    reason: str | None


class EndFields(TypedDict, total=False):
    """One settle or refund of a batch: with `actual_quota` a settle, without it a refund."""

    request_id: Required[str]
    actual_quota: int
    reason: str | None


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
