"""Many holds, or many ends, in one request: each is carried out and answered by itself."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from api.answers import Answer, answer
from api.call import Call
from api.problems import described
from api.schemas import END, HOLD, ITEMS, refusal, shown
from relay_billing.aio import AsyncBillingClient
from relay_billing.domain import checks
from relay_billing.domain.errors import BillingError
from relay_billing.domain.jobs import Job, RefundJob, SettleJob

Item = dict[str, object]


async def holds(client: AsyncBillingClient, call: Call) -> Answer:
    """`POST /v1/sessions:batch`: a session or a problem for each, in order."""
    return await _each(call, partial(_hold, client))


async def ends(client: AsyncBillingClient, call: Call) -> Answer:
    """`POST /v1/ends:batch`: the request id or a problem for each, in order."""
    return await _each(call, partial(_end, client))


async def _each(call: Call, carry_out: Callable[[msgspec.Raw], Awaitable[Item]]) -> Answer:
    try:
        items = ITEMS(await call.body())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refusal(error) from None
    checks.batch("body", len(items))
    # Together: the client gathers what is under way, so they are a few transactions.
    return answer(200, await asyncio.gather(*(carry_out(item) for item in items)))


async def _hold(client: AsyncBillingClient, item: msgspec.Raw) -> Item:
    request_id: str | None = None
    try:
        fields = HOLD.read(item)
        request_id = fields.get("request_id")
        return shown(await client.hold(fields))
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
