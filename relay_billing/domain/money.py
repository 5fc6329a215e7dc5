"""Quota, the unit of all money here, and how people read it."""

QUOTA_PER_UNIT = 500_000
"""Quota that make one US dollar (semantics §1)."""

MAX_QUOTA = 2**53
"""The largest amount one call may name: what JSON numbers carry exactly (semantics §3)."""


def usd(quota: int) -> str:
    """Write `quota` as dollars, to the sixth decimal, without ever making a float of it (semantics §11)."""
    dollars, rest = divmod(abs(quota), QUOTA_PER_UNIT)
    sign = "-" if quota < 0 else ""
    return f"{sign}${dollars}.{rest * 1_000_000 // QUOTA_PER_UNIT:06d}"
