"""Proves the books: every account against its ledger rows, every session against what it must have moved."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import BigInteger, ColumnElement, Engine, Executable, and_, case, cast, func, literal, select

from relay_billing.domain.accounts import AccountType
from relay_billing.domain.changes import ADJUST
from relay_billing.domain.sessions import State
from relay_billing.schema import billing_ledger, billing_sessions, tokens, user_subscriptions, users

ROWS_AT_ONCE = 1_000

FUNDING_ACCOUNTS = (AccountType.WALLET.value, AccountType.SUBSCRIPTION.value)


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that does not add up. Amounts are quota; of a subscription the balance is `-amount_used`."""

    what: str
    """`wallet`, `subscription`, `token`, `session` (its funding) or `session token`."""
    id: str
    expected: int
    found: int

    @property
    def difference(self) -> int:
        """How much too much (positive) or too little there is."""
        return self.found - self.expected


def _accounts(account_type: AccountType, key: ColumnElement[int], balance: ColumnElement[int]) -> Executable:
    """Opening balance + sum of the ledger must be the balance now. An account that was deleted proves nothing."""
    c = billing_ledger.c
    sums = (
        select(c.account_id, func.sum(c.amount).label("total"), func.min(c.id).label("first"))
        .where(c.account_type == account_type.value)
        .group_by(c.account_id)
        .subquery()
    )
    first = billing_ledger.alias()
    # The first row knows what the account held before it: that is its opening balance.
    expected = cast(first.c.balance_after - first.c.amount + sums.c.total, BigInteger)
    return (
        select(literal(account_type.value), sums.c.account_id, expected, balance)
        .select_from(sums)
        .join(first, first.c.id == sums.c.first)
        .join(key.table, key == sums.c.account_id)
        .where(expected != balance)
    )


def _sessions(what: str, account_types: tuple[str, ...], *where: ColumnElement[bool]) -> Executable:
    """What a session moved must be what its state says: -actual, -hold, or nothing (semantics §10)."""
    s, c = billing_sessions.c, billing_ledger.c
    expected = case(
        (s.state.in_([State.SETTLED.value, State.FUNDING_SETTLED.value]), -s.actual_quota),
        (s.state == State.PRECONSUMED.value, -s.pre_consumed_quota),
        else_=0,
    )
    found = cast(func.coalesce(func.sum(c.amount), 0), BigInteger)
    legs = and_(c.request_id == s.request_id, c.account_type.in_(account_types), c.kind != ADJUST)
    return (
        select(literal(what), s.request_id, expected, found)
        .select_from(billing_sessions.outerjoin(billing_ledger, legs))
        .where(*where)
        .group_by(s.request_id)
        .having(found != expected)
    )


def _proofs() -> Iterator[Executable]:
    yield _accounts(AccountType.WALLET, users.c.id, users.c.quota)
    yield _accounts(AccountType.SUBSCRIPTION, user_subscriptions.c.id, -user_subscriptions.c.amount_used)
    yield _accounts(AccountType.TOKEN, tokens.c.id, tokens.c.remain_quota)
    yield _sessions("session", FUNDING_ACCOUNTS)
    s = billing_sessions.c
    charged = and_(s.token_error.is_(None), s.state.in_([State.SETTLED.value, State.PRECONSUMED.value]))
    yield _sessions("session token", (AccountType.TOKEN.value,), s.token_id.is_not(None), charged)


def drifts(engine: Engine) -> Iterator[Drift]:
    """Yield everything that does not add up (semantics §10).

    Each proof is one statement, so that it sees one moment of the books even while they move.
    """
    with engine.connect().execution_options(stream_results=True, yield_per=ROWS_AT_ONCE) as connection:
        for proof in _proofs():
            for row in connection.execute(proof):
                what, of, expected, found = row
                yield Drift(what, str(of), int(expected), int(found))
