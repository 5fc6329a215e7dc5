"""Top-ups: money comes in, once for each reference (semantics §10)."""

from sqlalchemy import func, select

from relay_billing.domain import topups
from relay_billing.domain.changes import TOP_UP, Book
from relay_billing.domain.topups import ToppedUp, TopUp
from relay_billing.schema import billing_ledger
from relay_billing.store import steps
from relay_billing.store.commands import Command, Load, Steps
from relay_billing.store.dialects import Dialect


def _claim(dialect: Dialect, request_id: str) -> Load:
    """Let only one transaction at a time deal with a reference.

    The ledger's unique key holds the account too, so two at once for two users would both get in. SQLite lets one
    transaction write anyhow.
    """
    if dialect.name == "postgresql":
        yield [Command(select(func.pg_advisory_xact_lock(func.hashtextextended(request_id, 0))))]


def top_up(book: Book, dialect: Dialect, asked: TopUp) -> Steps[ToppedUp]:
    """Move the money, or say what the same reference has moved before."""
    yield from _claim(dialect, asked.request_id)
    c = billing_ledger.c
    rows = select(c.account_id, c.amount, c.balance_after, c.created_at)
    (found,) = yield [Command(rows.where(c.request_id == asked.request_id, c.kind == TOP_UP))]
    if found.rows:
        row = found.rows[0]
        known = ToppedUp(
            row["account_id"], row["amount"], asked.reference, row["balance_after"], row["created_at"], replayed=True
        )
        return topups.replay(asked, known)
    yield from steps.load_wallets(book, {asked.user_id})
    changes, done = topups.top_up(book, asked)
    book.post(changes)
    yield from steps.write(book, dialect)
    return done
