"""The constant statements that lock and move accounts, made once for each shape of the tables (semantics §12).

For tables of our own they name no column and no function more than needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    MetaData,
    Select,
    Table,
    Update,
    bindparam,
    false,
    func,
    literal_column,
    select,
    true,
    update,
)

from relay_billing.domain.accounts import Subscription
from relay_billing.schema import billing_sessions, subscription_plans, tokens, user_subscriptions, users
from relay_billing.store.account_shapes import OPTIONAL, OWN, AccountShape
from relay_billing.store.ids import among
from relay_billing.store.statements import given, locked

_S = billing_sessions.c
_COUNTED = (
    "users.quota",
    "users.used_quota",
    "users.request_count",
    "users.status",
    "tokens.user_id",
    "tokens.remain_quota",
    "tokens.used_quota",
    "tokens.status",
    "tokens.expired_time",
    "user_subscriptions.user_id",
    "user_subscriptions.plan_id",
    "user_subscriptions.start_time",
    "user_subscriptions.end_time",
    "user_subscriptions.last_reset_time",
    "user_subscriptions.next_reset_time",
    "subscription_plans.quota_reset_custom_seconds",
)
"""Columns in which a relay's tables may have NULL, which counts as 0."""
_SUBSCRIPTION = tuple(each.name for each in fields(Subscription))


@dataclass(frozen=True, slots=True)
class AccountStatements:
    """Statements on the account tables. Their parameters: `ids`, a sorted list; `now`, Unix seconds."""

    lock_users: Select[Any]
    lock_active_subscriptions: Select[Any]
    lock_tokens: Select[Any]
    reading: tuple[Select[Any], Select[Any], Select[Any]]
    """The same three, but without locks: for a decision that nothing follows."""
    locking_of: tuple[Select[Any], Select[Any], Select[Any]]
    """Locks users, subscriptions and tokens of the sessions `ids`: saves a round trip that would read their ids."""
    reading_of: tuple[Select[Any], Select[Any], Select[Any]]
    """The same three, but without locks: for what must not stand in a relay's way (semantics §13)."""
    subscriptions: Select[Any]
    """All of them, to be narrowed by columns of `subscription_table`; plans likewise."""
    plans: Select[Any]
    plans_of_active: Select[Any]
    move_wallet: Update
    """Adds the parameters `delta`, `used` and `requests` to the row `of`; the other moves likewise."""
    move_subscription: Update
    move_token: Update
    subscription_stamp: bool
    """Whether moves of subscriptions take `at` too, Unix seconds."""
    token_stamp: bool
    turns: bool
    """Whether moves of subscriptions take the calendar: `last`, `next` and `to_status`."""
    subscription_table: Table
    plan_table: Table

    @property
    def locking(self) -> tuple[Select[Any], Select[Any], Select[Any]]:
        """Locks users, active subscriptions and tokens."""
        return self.lock_users, self.lock_active_subscriptions, self.lock_tokens


class _Tables:
    """The account tables with the optional columns that exist, and how their columns are read."""

    def __init__(self, shape: AccountShape) -> None:
        self.shape = shape
        self.users, self.tokens, self.plans, self.subscriptions = map(
            self._with_optional, (users, tokens, subscription_plans, user_subscriptions)
        )

    def _with_optional(self, table: Table) -> Table:
        more = {name: kind for name, kind in OPTIONAL[table.name].items() if self.shape.has(f"{table.name}.{name}")}
        if not more:
            return table
        copied = table.to_metadata(MetaData())
        for name, kind in more.items():
            if name not in copied.c:
                copied.append_column(Column(name, kind))
        return copied

    def read(self, column: Column[int]) -> ColumnElement[int]:
        """The column; in a relay's tables, 0 where it is NULL."""
        if not self.shape.foreign or f"{column.table.name}.{column.name}" not in _COUNTED:
            return column
        return func.coalesce(column, literal_column("0", column.type))

    def columns(self, table: Table, *names: str) -> list[ColumnElement[Any]]:
        """Columns to select, those that exist."""
        found: list[ColumnElement[Any]] = []
        for name in names:
            if name == "deleted" and self.shape.has(f"{table.name}.deleted_at"):
                found.append(table.c.deleted_at.is_not(None).label(name))
            elif name in table.c:
                read = self.read(table.c[name])
                found.append(read if read is table.c[name] else read.label(name))
        return found


def _of_sessions(account: ColumnElement[int]) -> Select[int]:
    """The account ids of the sessions in the parameter `ids`."""
    return select(account).where(among(_S.request_id, "ids"))


def _users(tables: _Tables) -> Select[Any]:
    names = ("id", "quota", "status", "deleted", "used_quota", "request_count")
    return select(*tables.columns(tables.users, *(names if tables.shape.foreign else names[:2])))


def _tokens(tables: _Tables) -> Select[Any]:
    c = tables.tokens.c
    if not tables.shape.foreign:
        return select(c.id, c.user_id, c.remain_quota, c.unlimited_quota)
    names = ("id", "user_id", "remain_quota", "status", "deleted", "expired_time", "used_quota")
    unlimited = func.coalesce(c.unlimited_quota, false()).label("unlimited_quota")
    return select(*tables.columns(tables.tokens, *names), unlimited)


def _subscriptions(tables: _Tables) -> Select[Any]:
    table, plans = tables.subscriptions, tables.plans
    if not tables.shape.foreign:
        return select(table)
    names = [name for name in _SUBSCRIPTION if name not in ("status", "allow_wallet_overflow")]
    status = func.coalesce(table.c.status, literal_column("''")).label("status")
    words: list[ColumnElement[Any]] = []
    if "allow_wallet_overflow" in table.c:
        words.append(table.c.allow_wallet_overflow)
    if "allow_wallet_overflow" in plans.c:
        own = select(plans.c.allow_wallet_overflow).where(plans.c.id == table.c.plan_id)
        words.append(own.scalar_subquery())
    allowed = [func.coalesce(*words, true(), type_=Boolean).label("allow_wallet_overflow")] if words else []
    return select(*tables.columns(table, *names), status, *allowed)


def _plans(tables: _Tables) -> Select[Any]:
    c = tables.plans.c
    if not tables.shape.foreign:
        return select(c.id, c.title, c.quota_reset_period, c.quota_reset_custom_seconds)
    period = func.coalesce(c.quota_reset_period, literal_column("'never'")).label("quota_reset_period")
    return select(*tables.columns(tables.plans, "id", "title", "quota_reset_custom_seconds"), period)


def _moves(tables: _Tables) -> tuple[Update, Update, Update]:
    """The statements that move a wallet, a subscription and a token."""
    shape, read = tables.shape, tables.read
    u, b, t = tables.users.c, tables.subscriptions.c, tables.tokens.c
    wallet = {
        "quota": read(u.quota) + given("delta", u.quota),
        "used_quota": read(u.used_quota) + given("used", u.quota),
        "request_count": read(u.request_count) + given("requests", u.quota),
    }
    subscription: dict[str, ColumnElement[Any]] = {"amount_used": b.amount_used - given("delta", b.amount_used)}
    if not shape.external:
        subscription |= {
            "last_reset_time": given("last", b.last_reset_time),
            "next_reset_time": given("next", b.next_reset_time),
            "status": given("to_status", b.status),
        }
    token: dict[str, ColumnElement[Any]] = {
        "remain_quota": read(t.remain_quota) + given("delta", t.remain_quota),
        "used_quota": read(t.used_quota) - given("delta", t.remain_quota),
    }
    if shape.has("user_subscriptions.updated_at"):
        subscription["updated_at"] = given("at", b.updated_at)
    if shape.has("tokens.accessed_time"):
        token["accessed_time"] = given("at", t.accessed_time)
    moves = ((tables.users, wallet), (tables.subscriptions, subscription), (tables.tokens, token))
    made = [update(of).where(of.c.id == given("of", of.c.id)).values(values) for of, values in moves]
    return made[0], made[1], made[2]


@lru_cache(maxsize=16)
def account_statements(shape: AccountShape = OWN) -> AccountStatements:
    """The statements for tables of this shape; the same objects for the same shape, so that each is compiled once."""
    tables = _Tables(shape)
    u, t, b, p = tables.users.c, tables.tokens.c, tables.subscriptions.c, tables.plans.c
    active = (
        among(b.user_id, "ids"),
        b.status == "active",
        b.end_time > bindparam("now", type_=b.end_time.type),
    )
    wallets, keys, subscriptions, plans = (each(tables) for each in _READS)
    wallet, subscription, token = _moves(tables)
    reading = (
        wallets.where(among(u.id, "ids")).order_by(u.id),
        subscriptions.where(*active).order_by(b.id),
        keys.where(among(t.id, "ids")).order_by(t.id),
    )
    reading_of = (
        wallets.where(u.id.in_(_of_sessions(_S.user_id))).order_by(u.id),
        subscriptions.where(b.id.in_(_of_sessions(_S.subscription_id))).order_by(b.id),
        keys.where(t.id.in_(_of_sessions(_S.token_id))).order_by(t.id),
    )
    return AccountStatements(
        lock_users=locked(reading[0]),
        lock_active_subscriptions=locked(reading[1]),
        lock_tokens=locked(reading[2]),
        reading=reading,
        locking_of=(locked(reading_of[0]), locked(reading_of[1]), locked(reading_of[2])),
        reading_of=reading_of,
        subscriptions=subscriptions,
        plans=plans,
        plans_of_active=plans.where(p.id.in_(select(b.plan_id).where(*active))),
        move_wallet=wallet,
        move_subscription=subscription,
        move_token=token,
        subscription_stamp=shape.has("user_subscriptions.updated_at"),
        token_stamp=shape.has("tokens.accessed_time"),
        turns=not shape.external,
        subscription_table=tables.subscriptions,
        plan_table=tables.plans,
    )


_READS: tuple[Callable[[_Tables], Select[Any]], ...] = (_users, _tokens, _subscriptions, _plans)
