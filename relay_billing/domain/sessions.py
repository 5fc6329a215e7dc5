"""One relayed request's life: its states, its row, and what opens it (semantics §2, §3)."""

from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any

from relay_billing.domain import inputs
from relay_billing.domain.errors import InvalidRequest


class State(StrEnum):
    """The states of a session, as the database stores them (semantics §2)."""

    PRECONSUMED = "preconsumed"
    FUNDING_SETTLED = "funding_settled"
    SETTLED = "settled"
    REFUNDED = "refunded"
    EXPIRED = "expired"


class Intent(StrEnum):
    """What a relay has said shall become of a session (semantics §9)."""

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
"""Where a session may go from where; staying means that the row changes (a reserve, a park) but not its state."""


@dataclass(frozen=True, slots=True)
class PreConsume:
    """A request to hold quota. Checked when it is used, so that in a batch each has an answer of its own."""

    request_id: str
    user_id: int
    token_id: int | None
    quota: int
    model_name: str = ""
    preference: str | None = ""
    playground: bool = False
    force_pre_consume: bool = False
    hold_ttl: int | None = None
    """Seconds; None: the policy's."""

    def check(self) -> None:
        """Raise InvalidRequest, naming the field, unless every value can be used (semantics §3)."""
        inputs.request_id(self.request_id)
        inputs.row_id("user_id", self.user_id)
        inputs.flag("playground", self.playground)
        inputs.flag("force_pre_consume", self.force_pre_consume)
        if self.token_id is not None:
            inputs.row_id("token_id", self.token_id)
        if self.playground is (self.token_id is not None):
            problem = "must be None in the playground" if self.playground else "is needed outside the playground"
            raise InvalidRequest("token_id", problem)
        inputs.quota("quota", self.quota)
        inputs.text("model_name", self.model_name, 0, inputs.MAX_MODEL_NAME)
        if self.preference is not None and not isinstance(self.preference, str):
            raise InvalidRequest("preference", f"must be text, got {type(self.preference).__name__}")
        if self.hold_ttl is not None:
            inputs.whole("hold_ttl", self.hold_ttl, 1, 10 * 366 * 86_400)


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingSession:
    """A session as its row stands (semantics §3.8). Amounts are quota, `*_at` Unix milliseconds."""

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

    @property
    def needs_refund(self) -> bool:
        """Open, and something is held (semantics §6)."""
        return self.state is State.PRECONSUMED and (self.pre_consumed_quota > 0 or self.token_consumed > 0)

    def values(self) -> dict[str, Any]:
        """All fields by name."""
        return dict(zip(_NAMES, _READ(self), strict=True))

    def changed(self, **values: Any) -> "BillingSession":  # noqa: ANN401
        """The session with other values: `dataclasses.replace`, in half its time."""
        return BillingSession(**{**self.values(), **values})


_NAMES = tuple(each.name for each in fields(BillingSession))
_READ = attrgetter(*_NAMES)


def may_move(before: State, after: State) -> bool:
    """Whether the table of transitions knows this step."""
    return after in TRANSITIONS[before]


@dataclass(slots=True)
class Closing:
    """Whether the relay has tried to close a session; shared by all copies of it."""

    tried: bool = False
