"""A user's subscriptions as rows, for whoever looks at an account."""

from dataclasses import dataclass

from sqlalchemy import Select, func, select

from relay_billing import schema
from relay_billing.flows.history import MAX_ROWS


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
        # In a relay's tables columns may be NULL, which counts as 0 (semantics §12).
        names = [name for name in cls.__dataclass_fields__ if name not in ("plan_title", "status")]
        counted = (func.coalesce(b[name], 0).label(name) for name in names)
        columns = (*counted, func.coalesce(b.status, "").label("status"), p.title.label("plan_title"))
        bought = select(*columns).select_from(
            schema.user_subscriptions.outerjoin(schema.subscription_plans, p.id == b.plan_id)
        )
        return bought.where(b.user_id == user_id).order_by(b.id).limit(MAX_ROWS)
