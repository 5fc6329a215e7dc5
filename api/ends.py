"""One session, ended (semantics §5, §6)."""

from api.answers import Answer, answer
from api.call import Call
from api.schemas import REFUND, SETTLE
from relay_billing.aio import AsyncBillingClient
from relay_billing.domain.jobs import RefundJob, SettleJob


async def settle(client: AsyncBillingClient, call: Call) -> Answer:
    """`POST /v1/sessions/{request_id}/settle`."""
    call.request_id = request_id = call.path_text("request_id")
    fields = SETTLE.read(call.body())
    await client.close_session(SettleJob(request_id, fields["actual_quota"], fields.get("reason")))
    return answer(202, {"request_id": request_id})


async def refund(client: AsyncBillingClient, call: Call) -> Answer:
    """`POST /v1/sessions/{request_id}/refund`."""
    call.request_id = request_id = call.path_text("request_id")
    body = call.body()
    fields = REFUND.read(body) if body else {}
    await client.close_session(RefundJob(request_id, fields.get("reason")))
    return answer(202, {"request_id": request_id})
