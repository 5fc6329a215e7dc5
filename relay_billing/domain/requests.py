"""The request for a hold (semantics §3)."""

from dataclasses import dataclass
from typing import NamedTuple, Required, TypedDict

from relay_billing.domain import checks
from relay_billing.domain.errors import InvalidRequest


class HoldFields(TypedDict, total=False):
    """The keyword arguments of `pre_consume` (semantics §3)."""

    request_id: Required[str]
    user_id: Required[int]
    token_id: int | None
    """Unset, or None: a playground request, which has no API key."""
    quota: Required[int]
    model_name: str
    preference: str | None
    """Unset: `subscription_first`."""
    playground: bool
    force_pre_consume: bool
    """True: the quota is held even where trust would hold nothing."""
    hold_ttl: int | None
    """Seconds; unset: the policy's."""


class Manner(NamedTuple):
    """What the decision on a plain hold depends on, besides the policy: not on who asks for how much."""

    preference: str | None
    force_pre_consume: bool
    hold_ttl: int | None


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

    @property
    def manner(self) -> Manner:
        """How the hold is asked for."""
        return Manner(self.preference, self.force_pre_consume, self.hold_ttl)

    @classmethod
    def checked(cls, fields: HoldFields) -> "PreConsume":
        """The request of these keywords. Raises InvalidRequest for one that is unknown, missing or can't be used."""
        checks.no_unknown({name: value for name, value in fields.items() if name not in _FIELDS}, "pre_consume")
        for name in ("request_id", "user_id", "quota"):
            if name not in fields:
                raise InvalidRequest(name, "is missing")
        values: HoldFields = {"token_id": None, **fields}
        request = cls(**values)
        request.check()
        return request

    def check(self) -> None:
        """Raise InvalidRequest, naming the field, unless every value can be used (semantics §3)."""
        checks.request_id(self.request_id)
        checks.row_id("user_id", self.user_id)
        checks.flag("playground", self.playground)
        checks.flag("force_pre_consume", self.force_pre_consume)
        if self.token_id is not None:
            checks.row_id("token_id", self.token_id)
        if self.playground is (self.token_id is not None):
            problem = "must be None in the playground" if self.playground else "is needed outside the playground"
            raise InvalidRequest("token_id", problem)
        checks.quota("quota", self.quota)
        checks.text("model_name", self.model_name, 0, checks.MAX_MODEL_NAME)
        if self.preference is not None and not isinstance(self.preference, str):
            raise InvalidRequest("preference", f"must be text, got {type(self.preference).__name__}")
        if self.hold_ttl is not None:
            checks.whole("hold_ttl", self.hold_ttl, 1, 10 * 366 * 86_400)


_FIELDS = frozenset(HoldFields.__annotations__)
