"""Explains in the ledger what others have changed in a relay's accounts (semantics §12)."""

from collections.abc import Sequence

from sqlalchemy import func, select

from relay_billing.domain import checks
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.entries import EntryKind, Movement
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.ownership import Accounts
from relay_billing.flows.context import Context
from relay_billing.flows.reconcile import Drift
from relay_billing.schema import billing_ledger
from relay_billing.store.commands import Command, Steps
from relay_billing.store.statements import locked
from relay_billing.store.writes import write

LOCK_ORDER = (AccountType.WALLET, AccountType.SUBSCRIPTION, AccountType.TOKEN)


def _adopted(now_ms: int) -> Command:
    """The accounts that an adoption in the same millisecond has explained already, with the step of its row."""
    c = billing_ledger.c
    name = Movement.outside(AccountType.WALLET, 0, 0, now_ms, 0).request_id
    rows = select(c.account_type, c.account_id, func.max(c.step).label("step"))
    named = rows.where(c.request_id == name, c.kind == EntryKind.ADJUST.value)
    return Command(named.group_by(c.account_type, c.account_id))


def adopt(context: Context, found: Sequence[Drift]) -> Steps[list[Drift]]:
    """Write one row for each of 1 to 500 accounts that others have changed; return what was explained.

    Each account is locked and compared again, so an earlier run, or a movement meanwhile, explains nothing twice. No
    balance changes. Raises InvalidRequest where the accounts are our own: there a difference is a drift.
    """
    checks.batch("found", len(found))
    if context.policy.accounts is Accounts.OWN:
        raise InvalidRequest("accounts", "are own: what differs from the ledger is a drift, and is not adopted")
    accounts = context.dialect.accounts
    ids = {of: sorted({int(each.id) for each in found if each.what == of.value}) for of in LOCK_ORDER}
    column = accounts.subscription_table.c.id
    subscriptions = accounts.subscriptions.where(column.in_(ids[AccountType.SUBSCRIPTION])).order_by(column)
    yield [
        Command.of_constant(accounts.lock_users, ids=ids[AccountType.WALLET]),
        Command(locked(subscriptions)),
        Command.of_constant(accounts.lock_tokens, ids=ids[AccountType.TOKEN]),
    ]
    # After the locks, in statements of their own: each sees what was committed before it.
    replies = yield [Command(Drift.among(of, ids[of])) for of in LOCK_ORDER]
    (again,) = yield [_adopted(context.now_ms)]
    steps = {(row["account_type"], row["account_id"]): row["step"] + 1 for row in again.rows}
    sheet, explained = context.worksheet(), []
    for of, reply in zip(LOCK_ORDER, replies, strict=True):
        for row in reply.rows:
            drift = Drift(of.value, str(row["id"]), int(row["expected"]), int(row["found"]), outside=True)
            step = steps.get((of.value, row["id"]), 0)
            sheet.explain(Movement.outside(of, row["id"], drift.difference, context.now_ms, step), drift.found)
            explained.append(drift)
    yield from write(sheet, context.dialect)
    return explained
