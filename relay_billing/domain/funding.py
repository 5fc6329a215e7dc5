"""Where the money of one request comes from. A new source is a class in a file of its own, and a line in FUNDING."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from relay_billing.domain.changes import SubscriptionTurn
from relay_billing.domain.entries import EntryKind, Movement
from relay_billing.domain.requests import PreConsume
from relay_billing.domain.sessions import BillingSession
from relay_billing.domain.worksheet import Worksheet


@dataclass(frozen=True, slots=True)
class HoldPlan:
    """The hold that a source means to take: `hold` quota from funding and token, 0 where `trusted`."""

    hold: int
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """What a source took: its movements, and the fields of the session that record it."""

    movements: tuple[Movement, ...]
    remembered: Mapping[str, object] = field(default_factory=dict)
    turn: SubscriptionTurn | None = None


class FundingSource(Protocol):
    """One way to pay. Each method reads the worksheet and returns movements; none of them changes anything."""

    @property
    def name(self) -> str:
        """The word stored as the session's `source`; preferences are `<name>_first` and `<name>_only`."""

    @property
    def fallback(self) -> str | None:
        """The source tried after this one is short, with `<name>_first`; None: none is."""

    def offered(self, sheet: Worksheet, user_id: int) -> bool:
        """Whether the user has such a source at all; False: the fallback is tried instead (semantics §3.2)."""

    def plan(self, sheet: Worksheet, request: PreConsume, rich_token: bool) -> HoldPlan:
        """Decide the hold, before the token is checked; `rich_token`: the token is above the trust limit.

        Raises InsufficientUserQuota or QueryDataError.
        """

    def take(self, sheet: Worksheet, request: PreConsume, plan: HoldPlan) -> Taken:
        """Take the hold, after the token was checked. Raises InsufficientUserQuota."""

    def check_raise(self, sheet: Worksheet, session: BillingSession, extra: int) -> None:
        """Check that `extra` may be added, before the token is checked (semantics §4).

        Raises InsufficientUserQuota or QueryDataError.
        """

    def take_raise(
        self, sheet: Worksheet, session: BillingSession, extra: int, kind: EntryKind, step: int
    ) -> tuple[Movement, ...]:
        """Take `extra` more, after the token was checked (semantics §4). Raises InsufficientUserQuota."""

    def settle(self, sheet: Worksheet, session: BillingSession, delta: int) -> tuple[Movement, ...]:
        """Charge `delta` more, or give back where it is negative (semantics §5). Raises Parked."""

    def give_back(self, sheet: Worksheet, session: BillingSession, kind: EntryKind) -> tuple[Movement, ...]:
        """Return the whole hold (semantics §6). Raises Parked."""
