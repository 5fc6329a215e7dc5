"""What a fast path of a database looks like: statements that commit themselves, and what their rows stand for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from relay_billing.domain.fast_hold import Assumed
from relay_billing.domain.fast_hold_batch import Sendable
from relay_billing.domain.fast_settle import Plain
from relay_billing.domain.outcomes import Answer
from relay_billing.domain.sessions import BillingSession
from relay_billing.store.commands import Alone

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FastHold:
    """A hold in one auto-committed statement. It brings one row, or none where the general path decides."""

    command: Alone
    session_of: Callable[[Mapping[str, Any]], BillingSession]
    """The session that the row stands for."""


@dataclass(frozen=True, slots=True)
class FastBatch(Generic[T]):
    """Items of a batch in one statement that commits itself. It brings a row for each that it has dealt with."""

    command: Alone
    answers_of: Callable[[Sequence[Mapping[str, Any]]], dict[int, T]]
    """What the rows stand for, by the item's place in the batch."""


class _FastSettles(Protocol):
    """Makes the statement that applies plain jobs."""

    def __call__(
        self, plain: Sequence[Plain], now_ms: int, *, counted: bool, lowest_wallet: int | None
    ) -> FastBatch[Answer]:
        """As `fast_settle.fast_settles`."""


@dataclass(frozen=True, slots=True)
class FastPaths:
    """Statements that decide what is as usual and commit themselves; what they leave, the general path decides."""

    hold: Callable[[Assumed, int], FastHold]
    """One hold, at a time in Unix seconds."""
    holds: Callable[[Sequence[Sendable], int], FastBatch[BillingSession]]
    """Holds of a batch, at a time in Unix seconds."""
    settles: _FastSettles
