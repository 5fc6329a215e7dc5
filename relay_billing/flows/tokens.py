"""Reads one token's account: by index, in bounded lists, without changing anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from relay_billing import schema
from relay_billing.domain import checks
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.sessions import BillingSession
from relay_billing.flows.context import Context
from relay_billing.flows.history import MAX_ROWS, Entry
from relay_billing.flows.recent import RECENT, movements, open_holds
from relay_billing.store.commands import Command, Steps
from relay_billing.store.rows import session_of

SHOWN_OF_KEY = 4
"""Leading characters of an API key that leave the database, if the key has at least four times as many."""


@dataclass(frozen=True, slots=True)
class Key:
    """One row of `tokens`, with only the beginning of its API key. Amounts are quota."""

    id: int
    user_id: int
    name: str
    status: int
    remain_quota: int
    used_quota: int
    unlimited_quota: bool
    key: str

    @classmethod
    def rows(cls, where: ColumnElement[bool]) -> Select[Any]:
        """Selects rows of `tokens`. The database cuts the key, so that this process never has all of it."""
        c = schema.tokens.c
        long_enough = func.length(c.key) >= 4 * SHOWN_OF_KEY
        # In a relay's tables columns may be NULL, which counts as 0 (semantics §12).
        counted = ("user_id", "status", "remain_quota", "used_quota")
        rows = select(
            c.id,
            func.coalesce(c.name, "").label("name"),
            *(func.coalesce(c[name], 0).label(name) for name in counted),
            c.unlimited_quota,
            func.substr(c.key, 1, SHOWN_OF_KEY).label("beginning"),
            long_enough.label("long_enough"),
        )
        return rows.where(where).order_by(c.id).limit(MAX_ROWS)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Key":
        """The token of one row that `rows` has selected."""
        values = {name: row[name] for name in cls.__dataclass_fields__ if name != "key"}
        values["unlimited_quota"] = bool(row["unlimited_quota"])
        return cls(**values, key=f"{row['beginning']}***" if row["long_enough"] else "***")


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """One token, with open sessions and newest movements. Amounts are quota."""

    token: Key
    holds: int
    held: int
    open_sessions: tuple[BillingSession, ...]
    movements: tuple[Entry, ...]


def token(context: Context, token_id: int, recent: int = RECENT) -> Steps[TokenAccount | None]:
    """One token's account; None: no such token. `recent`: how many open holds and movements to list, 1 to 500.

    Raises InvalidRequest for a value out of range.
    """
    checks.row_id("token_id", token_id)
    checks.whole("recent", recent, 1, MAX_ROWS)
    found, total, newest, moved = yield [
        Command(Key.rows(schema.tokens.c.id == token_id)),
        *open_holds(schema.billing_sessions.c.token_id == token_id, recent),
        movements(AccountType.TOKEN, token_id, recent),
    ]
    if not found.rows:
        return None
    return TokenAccount(
        Key.of_row(found.rows[0]),
        total.rows[0]["holds"],
        total.rows[0]["held"],
        tuple(session_of(row) for row in newest.rows),
        tuple(Entry(**row) for row in moved.rows),
    )
