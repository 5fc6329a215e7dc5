"""One session: held, raised, looked at (semantics §3, §4); `ends` ends it."""

import time

from api.abandoned import give_back
from api.answers import JSON, Answer
from api.call import Call, HungUp
from api.schemas import HOLD, RESERVE, shown
from relay_billing.aio import AsyncBillingClient
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.requests import HoldFields

REPLAYED = (*JSON, (b"idempotent-replayed", b"true"))
DRY = {b"": False, b"dry_run=false": False, b"dry_run=true": True}


async def hold(client: AsyncBillingClient, call: Call) -> Answer:
    """`POST /v1/sessions`."""
    began = time.monotonic()
    dry = DRY.get(call.query)
    if dry is None:
        raise InvalidRequest("dry_run", "must be true or false, and the only parameter")
    key = call.headers.get(b"idempotency-key")
    call.request_id = None if key is None else key.decode("latin-1")
    fields = HOLD.read(call.body())
    _name(fields, call)
    if dry:
        return Answer(200, JSON, shown(await client.would_hold(**fields)))
    session = await client.hold(fields)
    if session.replayed:
        return Answer(200, REPLAYED, shown(session))
    if call.gone():
        await give_back(client, [session], time.monotonic() - began)
        raise HungUp
    return Answer(201, JSON, shown(session))


def _name(fields: HoldFields, call: Call) -> None:
    """The request id may come in the body, in the header `Idempotency-Key`, or in both. Raises InvalidRequest."""
    given = fields.get("request_id")
    if call.request_id is None:
        call.request_id = given
    elif given is None:
        fields["request_id"] = call.request_id
    elif given != call.request_id:
        raise InvalidRequest("request_id", f"is {given!r}, but the header Idempotency-Key is {call.request_id!r}")


async def reserve(client: AsyncBillingClient, call: Call) -> Answer:
    """`POST /v1/sessions/{request_id}/reserve`."""
    call.request_id = request_id = call.path_text("request_id")
    fields = RESERVE.read(call.body())
    return Answer(200, JSON, shown(await client.reserve(request_id, fields["target_quota"])))


async def get(client: AsyncBillingClient, call: Call) -> Answer:
    """`GET /v1/sessions/{request_id}`."""
    call.request_id = request_id = call.path_text("request_id")
    return Answer(200, JSON, shown(await client.get(request_id)))
