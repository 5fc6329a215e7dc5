"""Reads one user's account: by index, in bounded lists, without changing anything."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select

from relay_billing import schema
from relay_billing.domain import checks
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.sessions import BillingSession
from relay_billing.flows.allowances import Allowance
from relay_billing.flows.context import Context
from relay_billing.flows.history import MAX_ROWS, Entry
from relay_billing.flows.recent import RECENT, movements, open_holds
from relay_billing.flows.tokens import Key
from relay_billing.store.commands import Command, Steps
from relay_billing.store.rows import session_of


@dataclass(frozen=True, slots=True)
class Account:
    """One user's rows, with open sessions and newest movements. Amounts are quota."""

    id: int
    username: str
    quota: int
    used_quota: int
    request_count: int
    tokens: tuple[Key, ...]
    subscriptions: tuple[Allowance, ...]
    holds: int
    """Open sessions."""
    held: int
    """Quota that they hold in total."""
    open_sessions: tuple[BillingSession, ...]
    movements: tuple[Entry, ...]
    """The wallet's newest ledger rows, newest first."""


def _user() -> Select[Any]:
    """A user's row. In a relay's tables columns may be NULL, which counts as 0 (semantics §12)."""
    u = schema.users.c
    amounts = (func.coalesce(u[name], 0).label(name) for name in ("quota", "used_quota", "request_count"))
    return select(u.id, func.coalesce(u.username, "").label("username"), *amounts)


def account(context: Context, user_id: int, recent: int = RECENT) -> Steps[Account | None]:
    """One user's account; None: no such user. `recent`: how many open holds and movements to list, 1 to 500.

    Raises InvalidRequest for a value out of range.
    """
    checks.row_id("user_id", user_id)
    checks.whole("recent", recent, 1, MAX_ROWS)
    user, keys, allowances, total, newest, moved = yield [
        Command(_user().where(schema.users.c.id == user_id)),
        Command(Key.rows(schema.tokens.c.user_id == user_id)),
        Command(Allowance.rows_of(user_id)),
        *open_holds(schema.billing_sessions.c.user_id == user_id, recent),
        movements(AccountType.WALLET, user_id, recent),
    ]
    if not user.rows:
        return None
    return Account(
        **user.rows[0],
        tokens=tuple(Key.of_row(row) for row in keys.rows),
        subscriptions=tuple(Allowance(**row) for row in allowances.rows),
        holds=total.rows[0]["holds"],
        held=total.rows[0]["held"],
        open_sessions=tuple(session_of(row) for row in newest.rows),
        movements=tuple(Entry(**row) for row in moved.rows),
    )
