"""What a user or a token has, and what is held of it: by index, in bounded lists, readable with a relay's rights."""

from dataclasses import dataclass

from sqlalchemy import Select, select

from relay_billing import schema
from relay_billing.domain import checks
from relay_billing.flows.context import Context
from relay_billing.flows.history import MAX_ROWS
from relay_billing.flows.recent import open_total
from relay_billing.store.commands import Command, Steps


@dataclass(frozen=True, slots=True)
class Allowance:
    """One row of `user_subscriptions` with its plan's title. Amounts are quota, times Unix seconds."""

    id: int
    plan_id: int
    plan_title: str | None
    """None: the plan has no row."""
    status: str
    amount_total: int
    """0: unlimited."""
    amount_used: int
    start_time: int
    end_time: int
    last_reset_time: int
    next_reset_time: int

    @classmethod
    def rows_of(cls, user_id: int) -> Select[tuple[object, ...]]:
        """Selects a user's subscriptions, by id."""
        b, p = schema.user_subscriptions.c, schema.subscription_plans.c
        names = [name for name in cls.__dataclass_fields__ if name != "plan_title"]
        bought = select(*(b[name] for name in names), p.title.label("plan_title")).select_from(
            schema.user_subscriptions.outerjoin(schema.subscription_plans, p.id == b.plan_id)
        )
        return bought.where(b.user_id == user_id).order_by(b.id).limit(MAX_ROWS)


@dataclass(frozen=True, slots=True)
class OpenHolds:
    """Open sessions of an account: how many, and the quota that they hold."""

    count: int
    quota: int


@dataclass(frozen=True, slots=True)
class UserBalance:
    """A user's wallet and subscriptions. Amounts are quota."""

    user_id: int
    quota: int
    used_quota: int
    request_count: int
    open_holds: OpenHolds
    subscriptions: tuple[Allowance, ...]


@dataclass(frozen=True, slots=True)
class TokenBalance:
    """A token's own limit. Amounts are quota."""

    token_id: int
    user_id: int
    remain_quota: int
    used_quota: int
    unlimited_quota: bool
    open_holds: OpenHolds


def of_user(context: Context, user_id: int) -> Steps[UserBalance | None]:
    """A user's balance; None: no such user. Raises InvalidRequest for an id out of range."""
    checks.row_id("user_id", user_id)
    u = schema.users.c
    user, total, bought = yield [
        Command(select(u.quota, u.used_quota, u.request_count).where(u.id == user_id)),
        open_total(schema.billing_sessions.c.user_id == user_id),
        Command(Allowance.rows_of(user_id)),
    ]
    if not user.rows:
        return None
    held = OpenHolds(total.rows[0]["holds"], total.rows[0]["held"])
    return UserBalance(
        user_id, **user.rows[0], open_holds=held, subscriptions=tuple(Allowance(**r) for r in bought.rows)
    )


def of_token(context: Context, token_id: int) -> Steps[TokenBalance | None]:
    """A token's balance; None: no such token. Raises InvalidRequest for an id out of range."""
    checks.row_id("token_id", token_id)
    t = schema.tokens.c
    token, total = yield [
        Command(select(t.user_id, t.remain_quota, t.used_quota, t.unlimited_quota).where(t.id == token_id)),
        open_total(schema.billing_sessions.c.token_id == token_id),
    ]
    if not token.rows:
        return None
    values = {**token.rows[0], "unlimited_quota": bool(token.rows[0]["unlimited_quota"])}
    return TokenBalance(token_id, **values, open_holds=OpenHolds(total.rows[0]["holds"], total.rows[0]["held"]))
