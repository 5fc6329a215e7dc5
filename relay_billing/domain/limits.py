"""What the columns of the account tables can hold: those of an old database have 32 bits (semantics §12)."""

from dataclasses import dataclass

INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest amount that each column holds, in quota; the smallest is one below its negative."""

    wallet: int = INT64
    """`users.quota`."""
    usage: int = INT64
    """`users.used_quota`."""
    requests: int = INT64
    """`users.request_count`, in requests."""
    token: int = INT64
    """`tokens.remain_quota`."""
    token_used: int = INT64
    """`tokens.used_quota`."""
    subscription: int = INT64
    """`user_subscriptions.amount_used`."""


ALL_64 = Limits()


def fits(amount: int, limit: int) -> bool:
    """Whether a column with that limit holds the amount."""
    return -limit - 1 <= amount <= limit
