"""What comes in, as types: bodies are decoded into them, and `openapi` describes them; `end_fields` has a batch's.

A hold has the fields of `HoldFields`: no list of fields is written twice.
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
