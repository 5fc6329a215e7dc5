"""The newest of what an account has: open holds, and movements."""

from sqlalchemy import BigInteger, ColumnElement, and_, cast, func, select

from relay_billing import schema
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.sessions import State
from relay_billing.flows.history import ENTRIES
from relay_billing.store.commands import Command

RECENT = 20
"""Movements and open holds that an account is shown with, unless it is asked for more or fewer."""

_OPEN = schema.in_state(State.PRECONSUMED.value)


def open_holds(where: ColumnElement[bool], recent: int) -> list[Command]:
    """How many holds are open, what they hold, and the newest of them: from the index of open sessions alone."""
    s = schema.billing_sessions.c
    held = cast(func.coalesce(func.sum(s.pre_consumed_quota), 0), BigInteger)
    total = select(func.count().label("holds"), held.label("held")).where(_OPEN, where)
    newest = select(schema.billing_sessions).where(_OPEN, where).order_by(s.created_at.desc()).limit(recent)
    return [Command(total), Command(newest)]


def movements(account_type: AccountType, account_id: int, recent: int) -> Command:
    """The last ledger rows of an account, the newest first."""
    c = schema.billing_ledger.c
    mine = and_(c.account_type == account_type.value, c.account_id == account_id)
    return Command(ENTRIES.where(mine).order_by(c.id.desc()).limit(recent))
