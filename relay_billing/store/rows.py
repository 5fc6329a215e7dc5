"""Converts rows into domain values, and puts them on a worksheet."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from relay_billing.domain.accounts import Subscription, Token, Wallet
from relay_billing.domain.sessions import BillingSession, Intent, State
from relay_billing.domain.worksheet import Worksheet
from relay_billing.store.commands import Reply
from relay_billing.store.statements import SESSION_COLUMNS

NOTHING = Reply((), 0)
"""The reply for a table that was not queried."""
_SUBSCRIPTION = tuple(field.name for field in fields(Subscription))


def fill_accounts(sheet: Worksheet, wallets: Reply, subscriptions: Reply, keys: Reply) -> None:
    """Put rows of the three account tables on the worksheet."""
    sheet.wallets.update({row["id"]: Wallet(**row) for row in wallets.rows})
    for row in subscriptions.rows:
        sheet.subscriptions[row["id"]] = Subscription(**{name: row[name] for name in _SUBSCRIPTION if name in row})
    for row in keys.rows:
        values = {**row, "unlimited_quota": bool(row["unlimited_quota"])}
        sheet.tokens[row["id"]] = Token(**values)


def session_of(row: Mapping[str, Any]) -> BillingSession:
    """Make the session of a row of `billing_sessions`."""
    values = {name: row[name] for name in SESSION_COLUMNS}
    values["state"] = State(row["state"])
    values["intent"] = None if row["intent"] is None else Intent(row["intent"])
    return BillingSession(**values)


def fill_sessions(sheet: Worksheet, found: Reply) -> None:
    """Put rows of `billing_sessions` on the worksheet."""
    sheet.sessions.update({row["request_id"]: session_of(row) for row in found.rows})
