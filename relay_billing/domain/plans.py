"""What a subscription was bought as: a row of `subscription_plans` (semantics §7)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """What a subscription was bought as; `quota_reset_period` is a word of semantics §7."""

    id: int
    title: str
    quota_reset_period: str
    quota_reset_custom_seconds: int
