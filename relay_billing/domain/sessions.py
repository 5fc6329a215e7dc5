"""One relayed request's life: its states and its row (semantics §2, §3)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeVar

from relay_billing.domain.jobs import Job, RefundJob, SettleJob


class State(StrEnum):
    """The states of a session, as the database stores them (semantics §2)."""

    PRECONSUMED = "preconsumed"
    FUNDING_SETTLED = "funding_settled"
    SETTLED = "settled"
    REFUNDED = "refunded"
    EXPIRED = "expired"

    def may_become(self, after: "State") -> bool:
        """Whether `TRANSITIONS` has this step."""
        return after in TRANSITIONS[self]


class Intent(StrEnum):
    """What a relay wants of a session (semantics §9)."""

    SETTLE = "settle"
    REFUND = "refund"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.PRECONSUMED: frozenset(
        {State.PRECONSUMED, State.FUNDING_SETTLED, State.SETTLED, State.REFUNDED, State.EXPIRED}
    ),
    State.FUNDING_SETTLED: frozenset({State.FUNDING_SETTLED, State.SETTLED}),
    State.EXPIRED: frozenset({State.EXPIRED, State.SETTLED, State.REFUNDED}),
    State.SETTLED: frozenset(),
    State.REFUNDED: frozenset(),
}
"""The states that may follow each state; the same one again: the row changes (a reserve, a park) but not its state."""

OPEN_STATES = tuple(state for state in State if TRANSITIONS[state])
"""States that a session can still leave: an intent recorded on it waits to be applied (semantics §9)."""


S = TypeVar("S", bound="BillingSession")


@dataclass(frozen=True, kw_only=True)
class BillingSession:
    """A session as its row stands (semantics §3.8). Amounts are quota, `*_at` Unix milliseconds.

    Without slots: a hold is copied twice, and a copy by way of `__dict__` takes 1 µs, one field by field 7 µs.
    """

    request_id: str
    user_id: int
    token_id: int | None
    quota: int
    """What was asked for; `pre_consumed_quota` is what is held."""
    model_name: str
    preference: str
    playground: bool
    state: State
    source: str
    """Name of the funding source that pays: `wallet` or `subscription`."""
    pre_consumed_quota: int
    token_consumed: int
    trusted: bool
    created_at: int
    expires_at: int
    user_quota: int | None = None
    """The wallet before the hold; None off the wallet path."""
    subscription_id: int | None = None
    subscription_plan_id: int | None = None
    subscription_plan_title: str | None = None
    subscription_amount_total: int = 0
    subscription_amount_used_after_pre_consume: int = 0
    subscription_pre_consumed: int = 0
    subscription_post_delta: int = 0
    """What reserve and settle have added to the subscription's use after the first hold; negative: given back."""
    period: int = 0
    """`last_reset_time` of the subscription right after the hold: the period that the hold belongs to (§7)."""
    reserves: int = 0
    """Steps by which `reserve` has raised the hold."""
    actual_quota: int | None = None
    reason: str | None = None
    token_error: str | None = None
    parked: bool = False
    parked_reason: str | None = None
    intent: Intent | None = None
    intent_quota: int | None = None
    intent_reason: str | None = None
    intent_at: int | None = None
    closed_at: int | None = None
    shadow: bool = False
    """Judged beside a relay's own billing: nothing was moved for it, and nothing will be (§13)."""

    @property
    def needs_refund(self) -> bool:
        """Open, and something is held (semantics §6)."""
        return self.state is State.PRECONSUMED and (self.pre_consumed_quota > 0 or self.token_consumed > 0)

    @property
    def replayed(self) -> bool:
        """Of an answer to `pre_consume`: an earlier one with this request id has opened it; nothing moved (§3.1).

        No field: it says something of the answer, not of the session, and two answers with one session are equal.
        """
        return bool(self.__dict__.get("_replayed", False))

    def as_replay(self) -> "BillingSession":
        """The same session, as the answer to a repeated pre-consume."""
        return self.copied_as(BillingSession, {"_replayed": True})

    @property
    def intended_job(self) -> Job | None:
        """The job that carries out the intent recorded on the row; None: there is none (semantics §9)."""
        if self.intent is None:
            return None
        if self.intent is Intent.REFUND:
            return RefundJob(self.request_id, self.intent_reason)
        return SettleJob(self.request_id, self.intent_quota or 0, self.intent_reason)

    def values(self) -> dict[str, Any]:
        """All fields by name."""
        return dict(zip(_NAMES, _READ(self), strict=True))

    def changed(self, **values: Any) -> "BillingSession":  # noqa: ANN401
        """A copy with other values. Raises TypeError for a name that is no field's."""
        if not values.keys() <= _KNOWN:
            raise TypeError(f"a session has no {', '.join(sorted(values.keys() - _KNOWN))}")
        return self.copied_as(BillingSession, values)

    def copied_as(self, kind: type[S], values: Mapping[str, object]) -> S:
        """The session as a `kind` of session, with other values, or those that only this kind has."""
        made = object.__new__(kind)
        made.__dict__.update(self.__dict__)
        made.__dict__.update(values)
        return made


_NAMES = tuple(each.name for each in fields(BillingSession))
_KNOWN = frozenset(_NAMES)
_READ = attrgetter(*_NAMES)
