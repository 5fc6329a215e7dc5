"""What the demo has at its start: tables and users."""

import time
from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from relay_billing import migrations
from relay_billing.schema import billing_sessions, subscription_plans, tokens, user_subscriptions, users

MONTH_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Cast:
    """One user of the demo, and what they have at the start. Amounts in quota."""

    name: str
    preference: str
    user_id: int
    token_id: int
    wallet: int
    subscription_id: int | None
    allowance: int


ROLES = (
    # name, preference, wallet, allowance of a subscription
    ("wallet", "wallet_only", 900_000, 0),
    ("subscriber", "subscription_first", 100_000, 600_000),
    ("trusted", "wallet_first", 20_000_000, 0),
    ("almost empty", "wallet_first", 9_000, 0),
)


def prepare(engine: Engine) -> list[Cast]:
    """Make tables and users; return the users."""
    with engine.begin() as connection:
        migrations.upgrade(connection)
    cast = []
    now = int(time.time())
    with engine.begin() as connection:
        plan = connection.execute(subscription_plans.insert().values(title="demo plan")).inserted_primary_key
        for name, preference, wallet, allowance in ROLES:
            user = connection.execute(users.insert().values(username=f"demo {name}", quota=wallet))
            user_id = _key(user.inserted_primary_key)
            key = connection.execute(tokens.insert().values(user_id=user_id, name=name, remain_quota=50_000_000))
            subscription_id = None
            if allowance:
                bought = connection.execute(
                    user_subscriptions.insert().values(
                        user_id=user_id,
                        plan_id=_key(plan),
                        amount_total=allowance,
                        start_time=now,
                        end_time=now + MONTH_S,
                    )
                )
                subscription_id = _key(bought.inserted_primary_key)
            token_id = _key(key.inserted_primary_key)
            cast.append(Cast(name, preference, user_id, token_id, wallet, subscription_id, allowance))
    return cast


def _key(primary_key: object) -> int:
    return int(primary_key[0])  # type: ignore[index]


def open_sessions(engine: Engine, prefix: str) -> int:
    """How many sessions of this demo are not closed yet."""
    c = billing_sessions.c
    with engine.connect() as connection:
        where = (c.request_id.like(f"{prefix}%"), c.state == "preconsumed")
        return connection.execute(select(func.count()).where(*where)).scalar_one()
