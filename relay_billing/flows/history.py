"""Reads one request's session, ledger rows and dead letters: by index, in bounded lists, without changing anything."""

from dataclasses import dataclass

from sqlalchemy import select

from relay_billing.domain import checks
from relay_billing.domain.sessions import BillingSession
from relay_billing.flows import dead_letters
from relay_billing.flows.context import Context
from relay_billing.flows.dead_letters import Filter, KeptLetter
from relay_billing.schema import billing_dead_letters, billing_ledger, billing_sessions
from relay_billing.store.commands import Command, Steps
from relay_billing.store.entries import of_sessions
from relay_billing.store.rows import session_of

MAX_ROWS = 500
"""Most ledger rows of one request, and most tokens or subscriptions of one user; more are cut off."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of `billing_ledger`. Amounts are quota, `created_at` Unix milliseconds."""

    id: int
    request_id: str
    account_type: str
    account_id: int
    kind: str
    step: int
    amount: int
    balance_after: int
    """For a subscription: `-amount_used`."""
    created_at: int
    note: str | None


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of one request id."""

    request_id: str
    session: BillingSession | None
    """None: it was never pre-consumed, was refused, or is older than the retention."""
    entries: tuple[Entry, ...]
    letters: tuple[KeptLetter, ...]
    """Open and resolved ones."""

    @property
    def known(self) -> bool:
        """Whether anything was found."""
        return self.session is not None or bool(self.entries) or bool(self.letters)


ENTRIES = select(*(billing_ledger.c[name] for name in Entry.__dataclass_fields__))
"""Rows of the ledger, with the columns of an `Entry`."""


def story(context: Context, request_id: str) -> Steps[Story]:
    """Everything stored about one request. Raises InvalidRequest for an invalid request id."""
    checks.request_id(request_id)
    s, c, d = billing_sessions.c, billing_ledger.c, billing_dead_letters.c
    session, letters = yield [
        Command(select(billing_sessions).where(s.request_id == request_id)),
        Command(select(d.id).where(d.request_id == request_id).order_by(d.id).limit(MAX_ROWS)),
    ]
    ids = tuple(row["id"] for row in letters.rows)
    theirs = of_sessions([request_id], ids)
    (found,) = yield [Command(ENTRIES.where(theirs).order_by(c.id).limit(MAX_ROWS))]
    kept: list[KeptLetter] = []
    if ids:
        kept = yield from dead_letters.find(context, Filter(ids=ids, resolved=None, limit=MAX_ROWS))
    return Story(
        request_id,
        session_of(session.rows[0]) if session.rows else None,
        tuple(Entry(**row) for row in found.rows),
        tuple(kept),
    )
