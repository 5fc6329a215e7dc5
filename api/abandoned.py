"""Holds whose caller has hung up before he had his answer."""

import logging
from collections.abc import Iterable

from relay_billing.aio import AsyncBillingClient
from relay_billing.domain.errors import BillingUnavailable
from relay_billing.domain.sessions import BillingSession

log = logging.getLogger("api")

GIVEN_BACK_WITHIN_S = 1.0
"""A hold is given back if its call is younger than this. After more, its caller may have lost patience and asked
another door with the same id, which found the hold and uses it; then it ends with that call, or expires. `YOUNG_MS` of
the client for asyncio is the same rule. Who asked again sooner, because his connection was cut, loses the hold and no
more: his settle is charged (`domain.settlements.expire`)."""


async def give_back(client: AsyncBillingClient, sessions: Iterable[BillingSession], took_s: float) -> None:
    """Give back what this call has held: its caller never learns of it. `took_s`: how long the call took."""
    mine = [each.request_id for each in sessions if each.needs_refund and not each.replayed]
    if took_s > GIVEN_BACK_WITHIN_S or not mine:
        return
    try:
        await client.abandon(mine)
    except BillingUnavailable:
        log.warning("%d holds of a caller who hung up stand until they expire, %s the first", len(mine), mine[0])
