"""What is held of an account: read by the index of open sessions alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, func, select

from relay_billing.domain.sessions import State
from relay_billing.schema import billing_sessions, in_state
from relay_billing.store.commands import Command

OPEN = in_state(State.PRECONSUMED.value) & billing_sessions.c.shadow.is_(False)
"""Open sessions that hold something: those of a shadow hold nothing (semantics §13)."""


@dataclass(frozen=True, slots=True)
class OpenHolds:
    """Open sessions of an account: how many, and the quota that they hold."""

    count: int
    quota: int

    @classmethod
    def total(cls, where: ColumnElement[bool]) -> Command:
        """Reads them for the sessions that `where` chooses."""
        held = cast(func.coalesce(func.sum(billing_sessions.c.pre_consumed_quota), 0), BigInteger)
        return Command(select(func.count().label("holds"), held.label("held")).where(OPEN, where))

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "OpenHolds":
        """Those of the one row that `total` has read."""
        return cls(row["holds"], row["held"])
