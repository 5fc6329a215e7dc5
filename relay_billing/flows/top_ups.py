"""Top-ups: money comes in, once for each reference (semantics §10)."""

from sqlalchemy import select

from relay_billing.domain import top_ups
from relay_billing.domain.entries import EntryKind
from relay_billing.domain.entry_names import top_up_name
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.top_ups import ToppedUp, TopUp
from relay_billing.flows.context import Context
from relay_billing.schema import billing_ledger
from relay_billing.store.commands import Command, Load, Steps
from relay_billing.store.dialects import Dialect
from relay_billing.store.loads import load_wallets
from relay_billing.store.writes import write


def _claim(dialect: Dialect, name: str) -> Load:
    """Lock a reference, so that only one transaction at a time uses it.

    The ledger's unique key includes the account, so two concurrent top-ups with one reference, but for two users,
    would both pass.
    """
    claim = dialect.claim(name)
    if claim is not None:
        yield [claim]


def top_up(context: Context, asked: TopUp) -> Steps[ToppedUp]:
    """Credit the wallet; for a known reference, return its first result (semantics §10). Raises as `Ledger.top_up`."""
    if context.policy.shadow:
        raise InvalidRequest("shadow", "is on, so nothing is moved: no wallet is topped up (BILLING_SHADOW)")
    name = top_up_name(asked.reference)
    yield from _claim(context.dialect, name)
    c = billing_ledger.c
    rows = select(c.account_id, c.amount, c.balance_after, c.created_at)
    (found,) = yield [Command(rows.where(c.request_id == name, c.kind == EntryKind.TOP_UP.value))]
    if found.rows:
        row = found.rows[0]
        known = ToppedUp(
            row["account_id"], row["amount"], asked.reference, row["balance_after"], row["created_at"], replayed=True
        )
        return known.answering(asked)
    sheet = context.worksheet()
    yield from load_wallets(sheet, context.dialect.accounts, {asked.user_id})
    changes, done = top_ups.top_up(sheet, asked)
    sheet.post(changes)
    yield from write(sheet, context.dialect)
    return done
