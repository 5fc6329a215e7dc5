"""What every flow is given, and the bounds of those that go on in batches."""

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
"""Rows of one transaction, of flows that go on until nothing is left."""
MAX_BATCHES = 2_000
"""Transactions of one such run: a million rows. What is left waits for the next run."""

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
"""A flow that takes `P` beside its context, and returns a `T`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What one ledger's transactions have in common."""

    policy: Policy
    clock: Clock
    funding: tuple[FundingSource, ...]
    dialect: Dialect

    def now_ms(self) -> int:
        """Unix milliseconds by the ledger's clock."""
        return (self.clock() - _EPOCH) // timedelta(milliseconds=1)

    def context(self) -> Context:
        """What a transaction that begins now is given."""
        return Context(self.policy, self.now_ms(), self.funding, self.dialect)
