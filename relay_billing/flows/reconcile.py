"""Proves the ledger: every account against its ledger rows, every session's movements against its state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Table,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
)

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.sessions import State
from relay_billing.flows.context import Context
from relay_billing.schema import (
    billing_ledger,
    billing_reconciliations,
    billing_sessions,
    tokens,
    user_subscriptions,
    users,
)
from relay_billing.store.commands import Command, Steps
from relay_billing.store.entries import opening, owned

KEPT_PROOFS = 1_000
"""Results of full reconciliations that are kept; older ones are removed as new ones come."""

FUNDING_ACCOUNTS = (AccountType.WALLET.value, AccountType.SUBSCRIPTION.value)


@dataclass(frozen=True, slots=True)
class Drift:
    """One account or session that disagrees with the ledger. Amounts are quota, for subscriptions `-amount_used`."""

    what: str
    """`wallet`, `subscription`, `token`, `session` (its funding), `session token` or `movement without session`."""
    id: str
    expected: int
    found: int
    outside: bool = False
    """True: others have changed a relay's account; sessions and ledger agree (semantics §12)."""

    @property
    def difference(self) -> int:
        """Quota found above (positive) or below (negative) what is expected."""
        return self.found - self.expected

    @staticmethod
    def among(account_type: AccountType, ids: Sequence[int]) -> Executable:
        """Finds the accounts with these ids that differ from the ledger; each row has the fields of a `Drift`."""
        return _accounts(_Scope(ids=tuple(ids)), account_type)


@dataclass(frozen=True, slots=True)
class _Scope:
    """What to prove; an unset field limits nothing."""

    since_ms: int | None = None
    user_id: int | None = None
    ids: tuple[int, ...] | None = None
    """Of accounts of one type."""

    def _since(self) -> ColumnElement[int]:
        # A literal: with a parameter, a cached plan expects a third of the table to match, and reads all of it.
        return bindparam(None, self.since_ms, BigInteger, literal_execute=True)

    def moved(self) -> list[ColumnElement[bool]]:
        """Conditions on ledger rows: written at `since_ms` or later."""
        return [] if self.since_ms is None else [billing_ledger.c.created_at >= self._since()]

    def accounts(self, account_type: AccountType, table: Table) -> list[ColumnElement[bool]]:
        """Conditions on ledger rows: of accounts of this type, whose balances are in `table`."""
        c = billing_ledger.c
        # Shadow rows moved nothing (semantics §13).
        where = [c.account_type == account_type.value, c.shadow.is_(False)]
        if self.since_ms is not None:
            moved = select(c.account_id).where(*where, *self.moved())
            where.append(c.account_id.in_(moved))
        if self.ids is not None:
            where.append(c.account_id.in_(self.ids))
        if self.user_id is not None:
            owner = table.c.id if table is users else table.c.user_id
            where.append(c.account_id.in_(select(table.c.id).where(owner == self.user_id)))
        return where

    def sessions(self) -> list[ColumnElement[bool]]:
        """Conditions on sessions."""
        s = billing_sessions.c
        where: list[ColumnElement[bool]] = []
        if self.since_ms is not None:
            where.append(or_(s.created_at >= self._since(), s.closed_at >= self._since()))
        if self.user_id is not None:
            where.append(s.user_id == self.user_id)
        return where


BALANCES: dict[AccountType, tuple[Table, ColumnElement[int]]] = {
    AccountType.WALLET: (users, func.coalesce(users.c.quota, 0)),
    AccountType.SUBSCRIPTION: (user_subscriptions, -user_subscriptions.c.amount_used),
    AccountType.TOKEN: (tokens, func.coalesce(tokens.c.remain_quota, 0)),
}
"""Where each balance is. In a relay's tables NULL counts as 0."""


def _accounts(scope: _Scope, account_type: AccountType) -> Executable:
    """Opening balance + sum of the ledger must equal the balance now. Deleted accounts are skipped (semantics §10)."""
    c = billing_ledger.c
    table, balance = BALANCES[account_type]
    sums = (
        select(
            c.account_id,
            func.sum(c.amount).label("total"),
            func.min(c.id).label("first"),
            func.max(case((opening(), 1), else_=0)).label("opened"),
        )
        .where(*scope.accounts(account_type, table))
        .group_by(c.account_id)
        .subquery()
    )
    first = billing_ledger.alias()
    # The first row implies the balance before it; an opening row has that balance as its own amount.
    before = case((sums.c.opened == 1, 0), else_=first.c.balance_after - first.c.amount)
    expected = cast(before + sums.c.total, BigInteger)
    return (
        select(
            literal(account_type.value).label("what"),
            sums.c.account_id.label("id"),
            expected.label("expected"),
            balance.label("found"),
        )
        .select_from(sums)
        .join(first, first.c.id == sums.c.first)
        .join(table, table.c.id == sums.c.account_id)
        .where(expected != balance)
    )


def _sessions(scope: _Scope, what: str, account_types: tuple[str, ...], *where: ColumnElement[bool]) -> Executable:
    """The sum of a session's movements must match its state: -actual, -hold, or 0 (semantics §10).

    A shadow session's rows are all shadow, and another's none: rows of the other kind are not among its movements.
    """
    s, c = billing_sessions.c, billing_ledger.c
    expected = case(
        (s.state.in_([State.SETTLED.value, State.FUNDING_SETTLED.value]), -s.actual_quota),
        (s.state == State.PRECONSUMED.value, -s.pre_consumed_quota),
        else_=0,
    )
    found = cast(func.coalesce(func.sum(c.amount), 0), BigInteger)
    legs = and_(c.request_id == s.request_id, c.shadow == s.shadow, c.account_type.in_(account_types), owned())
    sums = (
        select(literal(what).label("what"), s.request_id, expected.label("expected"), found.label("found"))
        .select_from(billing_sessions.outerjoin(billing_ledger, legs))
        .where(*scope.sessions(), *where)
        .group_by(s.request_id)
        .subquery()
    )
    # Not HAVING: in MySQL's there are only the columns that are selected.
    return select(sums).where(sums.c.found != sums.c.expected)


def _orphans(scope: _Scope) -> Executable:
    """Finds ledger rows of a kind that sessions own (`owned`), but whose session does not exist."""
    s, c = billing_sessions.c, billing_ledger.c
    theirs = select(s.request_id).where(s.request_id == c.request_id).exists()
    rows = select(literal("movement without session"), c.request_id, literal(0), cast(func.sum(c.amount), BigInteger))
    return rows.where(owned(), ~theirs, *scope.moved()).group_by(c.request_id)


def _proofs(scope: _Scope) -> Iterator[Executable]:
    for account_type in BALANCES:
        yield _accounts(scope, account_type)
    yield _sessions(scope, "session", FUNDING_ACCOUNTS)
    s = billing_sessions.c
    charged = and_(s.token_error.is_(None), s.state.in_([State.SETTLED.value, State.PRECONSUMED.value]))
    yield _sessions(scope, "session token", (AccountType.TOKEN.value,), s.token_id.is_not(None), charged)
    if scope.user_id is None:
        yield _orphans(scope)


def proofs(since_ms: int | None, user_id: int | None) -> Iterator[Executable]:
    """Statements that find drifts; each row has the fields of a `Drift` (semantics §10).

    `since_ms`: only what has moved since then (Unix milliseconds); `user_id`: only that user's; None: everything.
    Each proof is one statement, so that it sees ledger and accounts at the same moment even while they change.
    """
    return _proofs(_Scope(since_ms, user_id))


def remember(context: Context, duration_ms: int, drifts: int, drift_quota: int) -> Steps[None]:
    """Keep the result of a full reconciliation, and remove all but the last `KEPT_PROOFS`."""
    table, c = billing_reconciliations, billing_reconciliations.c
    row = {"finished_at": context.now_ms, "duration_ms": duration_ms, "drifts": drifts, "drift_quota": drift_quota}
    newest = select(func.max(c.id)).scalar_subquery()
    yield [Command(table.insert().values(row))]
    yield [Command(delete(table).where(c.id <= newest - KEPT_PROOFS))]
