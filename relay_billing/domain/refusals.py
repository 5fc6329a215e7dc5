"""Requests that were refused in shadow: what remains of them, for they have no session (semantics §13)."""

from dataclasses import dataclass

from relay_billing.domain.errors import BillingError
from relay_billing.domain.requests import PreConsume


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused pre-consume. It is no session: the same request id may come again (semantics §3.1)."""

    request_id: str
    user_id: int
    token_id: int | None
    quota: int
    """Quota that was asked for."""
    model_name: str
    code: str
    """The error's code (semantics §11)."""
    detail: str
    """The error's message."""
    funds: int | None
    """Quota that the user had in all, wallet and subscriptions; None: without limit, or there is no such user."""

    @classmethod
    def of(cls, request: PreConsume, error: BillingError, funds: int | None) -> "Refusal":
        """The refusal of `request` by `error`."""
        return cls(
            request.request_id,
            request.user_id,
            request.token_id,
            request.quota,
            request.model_name,
            error.code,
            str(error),
            funds,
        )
