"""Replays: pre-consumes whose request id is known (semantics §3.1)."""

from dataclasses import dataclass

from relay_billing.domain.sessions import BillingSession


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay(BillingSession):
    """The session that an earlier pre-consume of its request id has opened: this one moved nothing (semantics §3.1).

    Equal to the session that the earlier one returned, as long as nothing has happened to it.
    """

    __hash__ = BillingSession.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BillingSession) and self.values() == other.values()
