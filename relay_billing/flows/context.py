"""The context that every flow gets, and the bounds of flows that run in batches."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Concatenate, ParamSpec, TypeVar

from relay_billing.domain.funding import FundingSource
from relay_billing.domain.ownership import Accounts, Calendar
from relay_billing.domain.policy import Policy
from relay_billing.domain.worksheet import Worksheet
from relay_billing.store.account_shapes import AccountShape, shape_of
from relay_billing.store.commands import Command, Steps
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
        return Worksheet(self.policy, self.now_ms, self.dialect.shape.limits)


Flow = Callable[Concatenate[Context, P], Steps[T]]
"""A flow that takes a context and the parameters `P`, and returns a `T`."""


@dataclass(slots=True)
class _Seen:
    """The dialect for the account tables as they were found."""

    dialect: Dialect | None = None
    """None: nobody has looked yet."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What all transactions of one ledger share."""

    policy: Policy
    clock: Clock
    funding: tuple[FundingSource, ...]
    dialect: Dialect
    seen: _Seen = field(default_factory=_Seen)

    def now_ms(self) -> int:
        """Unix milliseconds by the ledger's clock."""
        return (self.clock() - _EPOCH) // timedelta(milliseconds=1)

    def steps(self, flow: Flow[P, T], *args: P.args, **options: P.kwargs) -> Steps[T]:
        """The steps of a transaction that begins now."""
        if self.seen.dialect is None and self.policy.accounts is Accounts.NEW_API:
            return self._looking(flow, *args, **options)
        return flow(self._context(self.seen.dialect or self._own()), *args, **options)

    def _context(self, dialect: Dialect) -> Context:
        return Context(self.policy, self.now_ms(), self.funding, dialect)

    def _own(self) -> Dialect:
        if self.policy.subscription_calendar is Calendar.OWN:
            self.seen.dialect = self.dialect
        else:
            self.seen.dialect = self.dialect.shaped(AccountShape(external=True))
        return self.seen.dialect

    def _looking(self, flow: Flow[P, T], *args: P.args, **options: P.kwargs) -> Steps[T]:
        """The first transaction: it looks at the tables, and so decides everything by the general path."""
        (columns,) = yield [Command(self.dialect.columns)]
        rows = [(row["table_name"], row["column_name"], row["data_type"]) for row in columns.rows]
        shape = shape_of(rows, external=self.policy.subscription_calendar is Calendar.EXTERNAL)
        self.seen.dialect = found = self.dialect.shaped(shape)
        return (yield from flow(self._context(replace(found, fast=None)), *args, **options))
