"""An account's newest open holds and movements."""

from sqlalchemy import BigInteger, ColumnElement, and_, cast, func, select

from relay_billing import schema
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.sessions import State
from relay_billing.flows.history import ENTRIES
from relay_billing.store.commands import Command

RECENT = 20
"""Default number of movements, and of open holds, shown with an account."""

_OPEN = schema.in_state(State.PRECONSUMED.value)


def open_holds(where: ColumnElement[bool], recent: int) -> list[Command]:
    """Reads the number and quota of open holds, and the newest of them; both use only the index of open sessions.

    Shadow sessions hold nothing, and are left out; so are shadow rows of the ledger below (semantics §13).
    """
    s = schema.billing_sessions.c
    held = cast(func.coalesce(func.sum(s.pre_consumed_quota), 0), BigInteger)
    where = where & s.shadow.is_(False)
    total = select(func.count().label("holds"), held.label("held")).where(_OPEN, where)
    newest = select(schema.billing_sessions).where(_OPEN, where).order_by(s.created_at.desc()).limit(recent)
    return [Command(total), Command(newest)]


def movements(account_type: AccountType, account_id: int, recent: int) -> Command:
    """Reads an account's newest ledger rows, newest first."""
    c = schema.billing_ledger.c
    mine = and_(c.account_type == account_type.value, c.account_id == account_id, c.shadow.is_(False))
    return Command(ENTRIES.where(mine).order_by(c.id.desc()).limit(recent))
