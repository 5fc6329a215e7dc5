"""The context that every flow gets, and the bounds of flows that run in batches."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Concatenate, ParamSpec, TypeVar

from relay_billing.domain.funding import FundingSource
from relay_billing.domain.policy import Policy
from relay_billing.domain.worksheet import Worksheet
from relay_billing.store.commands import Steps
from relay_billing.store.dialects import Dialect

Clock = Callable[[], datetime]
P = ParamSpec("P")
T = TypeVar("T")

BATCH = 500
"""Rows per transaction, in flows that repeat until no rows are left."""
MAX_BATCHES = 2_000
"""Transactions of one such run: a million rows. The next run handles the rest."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Context:
    """One transaction's policy, time, funding sources and dialect."""

    policy: Policy
    now_ms: int
    """Unix milliseconds."""
    funding: tuple[FundingSource, ...]
    dialect: Dialect

    def worksheet(self) -> Worksheet:
        """An empty worksheet."""
        return Worksheet(self.policy, self.now_ms)


Flow = Callable[Concatenate[Context, P], Steps[T]]
"""A flow that takes a context and the parameters `P`, and returns a `T`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What all transactions of one ledger share."""

    policy: Policy
    clock: Clock
    funding: tuple[FundingSource, ...]
    dialect: Dialect

    def now_ms(self) -> int:
        """Unix milliseconds by the ledger's clock."""
        return (self.clock() - _EPOCH) // timedelta(milliseconds=1)

    def context(self) -> Context:
        """The context of a transaction that begins now."""
        return Context(self.policy, self.now_ms(), self.funding, self.dialect)
