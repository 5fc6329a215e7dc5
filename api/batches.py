"""Many holds, or many ends, in one request: each is carried out and answered by itself."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TypeVar

import msgspec

from api.abandoned import give_back
from api.answers import Answer, answer
from api.call import Call, HungUp
from api.problems import described
from api.schemas import END, HOLD, ITEMS, refusal, shown
from relay_billing.aio import AsyncBillingClient
from relay_billing.domain import checks
from relay_billing.domain.errors import BillingError
from relay_billing.domain.jobs import Job, RefundJob, SettleJob
from relay_billing.domain.sessions import BillingSession

Item = dict[str, object]
Carried = TypeVar("Carried")


async def holds(client: AsyncBillingClient, call: Call) -> Answer:
    """`POST /v1/sessions:batch`: a session or a problem for each, in order."""
    began = time.monotonic()
    made = await _each(call, partial(_hold, client))
    if call.gone():
        held = [each for each in made if isinstance(each, BillingSession)]
        await give_back(client, held, time.monotonic() - began)
        raise HungUp
    return answer(200, [msgspec.Raw(shown(each)) if isinstance(each, BillingSession) else each for each in made])


async def ends(client: AsyncBillingClient, call: Call) -> Answer:
    """`POST /v1/ends:batch`: the request id or a problem for each, in order."""
    return answer(200, await _each(call, partial(_end, client)))


async def _each(call: Call, carry_out: Callable[[msgspec.Raw], Coroutine[None, None, Carried]]) -> list[Carried]:
    """Carry all out together: the client gathers what is under way, so they are a few transactions."""
    try:
        items = ITEMS(call.body())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refusal(error) from None
    checks.batch("body", len(items))
    return await asyncio.gather(*(carry_out(item) for item in items))


async def _hold(client: AsyncBillingClient, item: msgspec.Raw) -> BillingSession | Item:
    request_id: str | None = None
    try:
        fields = HOLD.read(item)
        request_id = fields.get("request_id")
        return await client.hold(fields)
    except BillingError as error:
        return described(error, request_id)


async def _end(client: AsyncBillingClient, item: msgspec.Raw) -> Item:
    request_id: str | None = None
    try:
        fields = END.read(item)
        request_id, reason = fields["request_id"], fields.get("reason")
        job: Job = (
            SettleJob(request_id, fields["actual_quota"], reason)
            if "actual_quota" in fields
            else RefundJob(request_id, reason)
        )
        await client.close_session(job)
    except BillingError as error:
        return described(error, request_id)
    return {"request_id": request_id}
