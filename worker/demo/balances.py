"""What the users of the demo have left."""

from dataclasses import dataclass

from sqlalchemy import Engine, select

from relay_billing.schema import user_subscriptions, users
from worker.demo.scene import Cast


@dataclass(frozen=True, slots=True)
class Balance:
    """What one user has left, in quota: wallet and allowance together."""

    before: int
    after: int


def balances(engine: Engine, cast: list[Cast]) -> dict[str, Balance]:
    """Read what is left, from the account tables themselves."""
    found = {}
    with engine.connect() as connection:
        for who in cast:
            wallet = connection.execute(select(users.c.quota).where(users.c.id == who.user_id)).scalar_one()
            c = user_subscriptions.c
            used = connection.execute(select(c.amount_used).where(c.id == who.subscription_id)).scalar() or 0
            found[who.name] = Balance(who.wallet + who.allowance, wallet + who.allowance - used)
    return found
