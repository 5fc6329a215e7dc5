"""Removes old closed sessions, and carries their sum forward: one opening row per account (semantics §10)."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    and_,
    bindparam,
    cast,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)

from relay_billing.domain.entries import EntryKind
from relay_billing.domain.entry_names import OPENING
from relay_billing.domain.sessions import State
from relay_billing.schema import billing_ledger, billing_sessions
from relay_billing.store.commands import Command, Load, Steps
from relay_billing.store.entries import of_sessions, opening

Account = tuple[str, int]


def purge(before_ms: int, now_ms: int, limit: int) -> Steps[int]:
    """Remove up to `limit` sessions closed before `before_ms`, with their ledger rows; return how many."""
    s = billing_sessions.c
    # An expired session with an intent is about to be closed for good, a parked one waits for its operator.
    over = or_(s.state.in_([State.SETTLED.value, State.REFUNDED.value]), s.intent.is_(None))
    old = and_(s.created_at < before_ms, s.closed_at < before_ms, s.parked.is_(False), over)
    rows = select(s.request_id).where(old).limit(limit)
    (found,) = yield [Command(rows.with_for_update(key_share=True, skip_locked=True))]
    sessions = [row["request_id"] for row in found.rows]
    if not sessions:
        return 0
    theirs = of_sessions(sessions)
    yield from _carry_forward(theirs, now_ms)
    yield [
        Command(delete(billing_ledger).where(theirs)),
        Command(delete(billing_sessions).where(s.request_id.in_(sessions))),
    ]
    return len(sessions)


def purge_rows(key: Column[Any], old: ColumnElement[bool], limit: int) -> Steps[int]:
    """Remove up to `limit` rows of `key`'s table that meet `old`; return how many. Carries no sum forward."""
    table = key.table
    rows = select(key).where(old).order_by(key).limit(limit)
    (found,) = yield [Command(rows.with_for_update(skip_locked=True))]
    if found.rows:
        keys = [next(iter(row.values())) for row in found.rows]
        yield [Command(delete(table).where(key.in_(keys), old))]
    return len(found.rows)


def _carry_forward(theirs: ColumnElement[bool], now_ms: int) -> Load:
    """Add the removed rows to their accounts' opening rows. In concurrent purges, one insert fails and is retried."""
    c = billing_ledger.c
    total = cast(func.sum(c.amount), BigInteger).label("total")
    # Shadow rows go without a trace: they moved nothing (semantics §13).
    real = c.shadow.is_(False)
    summed = select(c.account_type, c.account_id, total).where(theirs, real).group_by(c.account_type, c.account_id)
    (sums,) = yield [Command(summed)]
    totals: dict[Account, int] = {(row["account_type"], row["account_id"]): row["total"] for row in sums.rows}
    accounts = sorted(totals)
    if not accounts:
        return
    mine = tuple_(c.account_type, c.account_id).in_(accounts)
    opened = select(c.account_type, c.account_id).where(opening(), mine)
    first = select(func.min(c.id)).where(mine, real).group_by(c.account_type, c.account_id)
    before = select(c.account_type, c.account_id, (c.balance_after - c.amount).label("opening")).where(c.id.in_(first))
    known, firsts = yield [Command(opened), Command(before)]
    there = {(row["account_type"], row["account_id"]) for row in known.rows}
    openings = {(row["account_type"], row["account_id"]): row["opening"] for row in firsts.rows}
    yield _opening_rows(totals, there, openings, now_ms)


def _opening_rows(
    totals: Mapping[Account, int], there: Collection[Account], openings: Mapping[Account, int], now_ms: int
) -> list[Command]:
    c = billing_ledger.c
    commands = []
    more = [{"type_": of[0], "of": of[1], "more": totals[of]} for of in sorted(totals) if of in there]
    if more:
        row = update(billing_ledger).where(
            opening(), c.account_type == bindparam("type_"), c.account_id == bindparam("of")
        )
        added = row.values(amount=c.amount + bindparam("more"), balance_after=c.balance_after + bindparam("more"))
        commands.append(Command(added, more))
    new = [
        {
            "request_id": OPENING,
            "account_type": of[0],
            "account_id": of[1],
            "kind": EntryKind.OPENING.value,
            "amount": openings[of] + totals[of],
            "balance_after": openings[of] + totals[of],
            "created_at": now_ms,
        }
        for of in sorted(totals)
        if of not in there
    ]
    if new:
        commands.append(Command(billing_ledger.insert(), new))
    return commands
