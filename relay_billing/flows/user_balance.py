"""What a user has and what is held of it: by index, bounded, readable with a relay's rights."""

from dataclasses import dataclass

from sqlalchemy import func, select

from relay_billing import schema
from relay_billing.domain import checks
from relay_billing.flows.allowances import Allowance
from relay_billing.flows.context import Context
from relay_billing.flows.open_holds import OpenHolds
from relay_billing.store.commands import Command, Steps


@dataclass(frozen=True, slots=True)
class UserBalance:
    """A user's wallet and subscriptions. Amounts are quota."""

    user_id: int
    quota: int
    used_quota: int
    request_count: int
    open_holds: OpenHolds
    subscriptions: tuple[Allowance, ...]


def of_user(context: Context, user_id: int) -> Steps[UserBalance | None]:
    """A user's balance; None: no such user. Raises InvalidRequest for an id out of range."""
    checks.row_id("user_id", user_id)
    u = schema.users.c
    # In a relay's tables columns may be NULL, which counts as 0 (semantics §12).
    amounts = (func.coalesce(u[name], 0).label(name) for name in ("quota", "used_quota", "request_count"))
    user, total, bought = yield [
        Command(select(*amounts).where(u.id == user_id)),
        OpenHolds.total(schema.billing_sessions.c.user_id == user_id),
        Command(Allowance.rows_of(user_id)),
    ]
    if not user.rows:
        return None
    held = OpenHolds.of_row(total.rows[0])
    return UserBalance(
        user_id, **user.rows[0], open_holds=held, subscriptions=tuple(Allowance(**r) for r in bought.rows)
    )
