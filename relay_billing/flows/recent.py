"""An account's newest open holds and movements."""

from sqlalchemy import ColumnElement, and_, select

from relay_billing import schema
from relay_billing.domain.account_type import AccountType
from relay_billing.flows.history import ENTRIES
from relay_billing.flows.open_holds import OPEN, OpenHolds
from relay_billing.store.commands import Command

RECENT = 20
"""Default number of movements, and of open holds, shown with an account."""


def open_holds(where: ColumnElement[bool], recent: int) -> list[Command]:
    """Reads the number and quota of open holds, and the newest of them; both use only the index of open sessions.

    Shadow sessions hold nothing, and are left out; so are shadow rows of the ledger below (semantics §13).
    """
    s = schema.billing_sessions.c
    newest = select(schema.billing_sessions).where(OPEN, where).order_by(s.created_at.desc()).limit(recent)
    return [OpenHolds.total(where), Command(newest)]


def movements(account_type: AccountType, account_id: int, recent: int) -> Command:
    """Reads an account's newest ledger rows, newest first."""
    c = schema.billing_ledger.c
    mine = and_(c.account_type == account_type.value, c.account_id == account_id, c.shadow.is_(False))
    return Command(ENTRIES.where(mine).order_by(c.id.desc()).limit(recent))
