"""Holds whose caller has hung up before he had his answer."""

import asyncio
import logging
from collections.abc import Iterable

from relay_billing.aio import AsyncBillingClient
from relay_billing.domain.errors import BillingUnavailable
from relay_billing.domain.jobs import RefundJob
from relay_billing.domain.replays import Replay
from relay_billing.domain.sessions import BillingSession

log = logging.getLogger("api")

GIVEN_BACK_WITHIN_S = 1.0
"""A hold is given back if its call is younger than this. After more, its caller may have lost patience and asked
another door with the same id, which found the hold and uses it; then it ends with that call, or expires. `YOUNG_MS` of
the client for asyncio is the same rule."""


async def give_back(client: AsyncBillingClient, sessions: Iterable[BillingSession], took_s: float) -> None:
    """Refund what this call has held: its caller never learns of it. `took_s`: how long the call took."""
    if took_s > GIVEN_BACK_WITHIN_S:
        return
    mine = [each for each in sessions if each.needs_refund and not isinstance(each, Replay)]
    await asyncio.gather(*(_refund(client, each.request_id) for each in mine))


async def _refund(client: AsyncBillingClient, request_id: str) -> None:
    try:
        await client.close_session(RefundJob(request_id, "client_gone"))
    except BillingUnavailable:
        log.warning("session %s of a caller who hung up keeps its hold until it expires", request_id)
