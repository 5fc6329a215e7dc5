"""Types of a database's fast paths: auto-committed statements, and functions that read their rows."""

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
    """A hold in one auto-committed statement. It returns one row, or none if the general path must decide."""

    command: Alone
    session_of: Callable[[Mapping[str, Any]], BillingSession]
    """Makes the session from the row."""


@dataclass(frozen=True, slots=True)
class FastBatch(Generic[T]):
    """Items of a batch in one auto-committed statement. It returns a row for each item that it has decided."""

    command: Alone
    answers_of: Callable[[Sequence[Mapping[str, Any]]], dict[int, T]]
    """Makes the answers from the rows, by the item's index in the batch."""


class _FastSettles(Protocol):
    """Makes the statement that applies plain jobs."""

    def __call__(
        self, plain: Sequence[Plain], now_ms: int, *, counted: bool, lowest_wallet: int | None
    ) -> FastBatch[Answer]:
        """As `fast_settle.fast_settles`."""


@dataclass(frozen=True, slots=True)
class FastPaths:
    """Makers of auto-committed statements for plain holds and jobs; the general path decides the rest."""

    hold: Callable[[Assumed, int], FastHold]
    """One hold, at a time in Unix seconds."""
    holds: Callable[[Sequence[Sendable], int], FastBatch[BillingSession]]
    """Holds of a batch, at a time in Unix seconds."""
    settles: _FastSettles
