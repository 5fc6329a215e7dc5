"""One item of a batch of settles and refunds, as a type."""

from typing import Required, TypedDict


class EndFields(TypedDict, total=False):
    """One settle or refund of a batch: with `actual_quota` a settle, without it a refund."""

    request_id: Required[str]
    actual_quota: int
    reason: str | None
