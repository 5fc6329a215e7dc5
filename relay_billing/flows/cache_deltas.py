"""Deltas for a relay's caches: claimed in one transaction, applied to Redis by a task, removed in another.

At most once: what was claimed is never claimed again. If the task dies between the two, or loses Redis, nobody knows
whether it was applied: such deltas are returned as `uncertain`, and not tried again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Executable, Table, delete, func, or_, select, update

from relay_billing.domain import checks
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.cache_deltas import LATE_MS, UNCERTAIN_MS, CacheDelta
from relay_billing.flows.context import Context
from relay_billing.schema import billing_cache_deltas, tokens, users
from relay_billing.store.commands import Command, Steps

_C = billing_cache_deltas.c
Account = tuple[AccountType, int]


@dataclass(frozen=True, slots=True)
class Claim:
    """Deltas to apply, and those that were given up."""

    deltas: tuple[CacheDelta, ...]
    balances: Mapping[Account, int]
    """What the cache must say once the deltas are applied: the balance, less what others still have to apply."""
    keys: Mapping[int, str]
    """Of the tokens among them that are there: their API keys, after which their caches are named."""
    late: int
    """Given up: older than `LATE_MS`."""
    uncertain: tuple[CacheDelta, ...]
    """Given up: claimed longer ago than `UNCERTAIN_MS`, and perhaps applied."""


def claim(context: Context, limit: int) -> Steps[Claim]:
    """Claim up to `limit` deltas, the oldest first; skips those that other workers are claiming."""
    checks.batch("limit", limit)
    now = context.now_ms
    columns = (_C.id, _C.account_type, _C.account_id, _C.amount, _C.created_at, _C.claimed_at)
    open_ = or_(_C.claimed_at.is_(None), _C.claimed_at < now - UNCERTAIN_MS)
    oldest = select(*columns).where(open_).order_by(_C.id).limit(limit)
    (found,) = yield [Command(oldest.with_for_update(skip_locked=True))]
    fresh: list[CacheDelta] = []
    late: list[CacheDelta] = []
    uncertain: list[CacheDelta] = []
    for row in found.rows:
        claimed_at, kind = row["claimed_at"], AccountType(row["account_type"])
        delta = CacheDelta(row["id"], kind, row["account_id"], row["amount"], row["created_at"])
        given_up = late if delta.created_at < now - LATE_MS else fresh
        (given_up if claimed_at is None else uncertain).append(delta)
    if late or uncertain:
        yield from close(context, [each.id for each in (*late, *uncertain)])
    if not fresh:
        return Claim((), {}, {}, len(late), tuple(uncertain))
    yield [Command(update(billing_cache_deltas).where(_C.id.in_([each.id for each in fresh])).values(claimed_at=now))]
    balances, keys = yield from _accounts(fresh)
    return Claim(tuple(fresh), balances, keys, len(late), tuple(uncertain))


def _balances(table: Table, balance: str, kind: AccountType, ids: Sequence[int]) -> Executable:
    # In one statement, so that a movement is in both or in neither of balance and deltas.
    waiting = (
        select(func.coalesce(func.sum(_C.amount), 0))
        .where(_C.account_type == kind.value, _C.account_id == table.c.id, _C.claimed_at.is_(None))
        .scalar_subquery()
    )
    key = [table.c.key] if kind is AccountType.TOKEN else []
    return select(table.c.id, table.c[balance], waiting.label("waiting"), *key).where(table.c.id.in_(ids))


def _accounts(deltas: Sequence[CacheDelta]) -> Steps[tuple[dict[Account, int], dict[int, str]]]:
    ids = {
        kind: sorted({each.account_id for each in deltas if each.account_type is kind})
        for kind in (AccountType.WALLET, AccountType.TOKEN)
    }
    wallets, found = yield [
        Command(_balances(users, "quota", AccountType.WALLET, ids[AccountType.WALLET])),
        Command(_balances(tokens, "remain_quota", AccountType.TOKEN, ids[AccountType.TOKEN])),
    ]
    # A relay's own tables may have NULL for 0, and a token without a key.
    balances = {(AccountType.WALLET, row["id"]): int(row["quota"] or 0) - int(row["waiting"]) for row in wallets.rows}
    balances |= {
        (AccountType.TOKEN, row["id"]): int(row["remain_quota"] or 0) - int(row["waiting"]) for row in found.rows
    }
    return balances, {row["id"]: row["key"] for row in found.rows if row["key"]}


def close(context: Context, ids: Sequence[int]) -> Steps[None]:
    """Remove deltas that were applied or given up."""
    yield [Command(delete(billing_cache_deltas).where(_C.id.in_(ids)))]
