"""What a token has and what is held of it: by index, readable with a relay's rights."""

from dataclasses import dataclass

from sqlalchemy import func, select

from relay_billing import schema
from relay_billing.domain import checks
from relay_billing.flows.context import Context
from relay_billing.flows.open_holds import OpenHolds
from relay_billing.store.commands import Command, Steps


@dataclass(frozen=True, slots=True)
class TokenBalance:
    """A token's own limit. Amounts are quota."""

    token_id: int
    user_id: int
    remain_quota: int
    used_quota: int
    unlimited_quota: bool
    open_holds: OpenHolds


def of_token(context: Context, token_id: int) -> Steps[TokenBalance | None]:
    """A token's balance; None: no such token. Raises InvalidRequest for an id out of range."""
    checks.row_id("token_id", token_id)
    t = schema.tokens.c
    # In a relay's tables columns may be NULL, which counts as 0 (semantics §12).
    counted = (func.coalesce(t[name], 0).label(name) for name in ("user_id", "remain_quota", "used_quota"))
    token, total = yield [
        Command(select(*counted, t.unlimited_quota).where(t.id == token_id)),
        OpenHolds.total(schema.billing_sessions.c.token_id == token_id),
    ]
    if not token.rows:
        return None
    values = {**token.rows[0], "unlimited_quota": bool(token.rows[0]["unlimited_quota"])}
    return TokenBalance(token_id, **values, open_holds=OpenHolds.of_row(total.rows[0]))
