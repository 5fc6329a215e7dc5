"""A relay that bills: FastAPI, streaming, clients that hang up, upstreams that fail, requests that are tried again.

Environment: `DATABASE_URL`, `BROKER_URL`, and `UPSTREAMS`, addresses separated by commas, tried in this order.
Run it: uvicorn --app-dir docs/examples relay:app
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

import httpx
from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from relay_billing import AsyncBillingClient, BillingError, BillingUnavailable
from relay_billing.aio import AsyncClientSession

log = logging.getLogger("relay")

KEYS = {"sk-example": (1, 1)}
"""API key to user id and token id; a real relay looks them up."""
QUOTA_PER_TOKEN = 10
SETTLE_TRIES = 6
FIRST_PAUSE_S = 0.2
"""Between the first two tries; each pause doubles, so all of them take 12.6 s."""
UPSTREAM_SILENCE_S = 60.0


class Chat(BaseModel):
    """What a client asks for."""

    prompt: str = Field(max_length=100_000)
    max_tokens: int = Field(1_000, ge=1, le=100_000)

    @property
    def estimate(self) -> int:
        """Quota: the most that the answer can cost."""
        return self.max_tokens * QUOTA_PER_TOKEN


@dataclass(slots=True)
class Relay:
    """What the process holds open."""

    billing: AsyncBillingClient
    http: httpx.AsyncClient
    upstreams: list[str]
    running: set[str] = field(default_factory=set)
    """Requests that this process is answering."""
    closing: set[asyncio.Task[None]] = field(default_factory=set)
    """Settles and refunds under way; waited for before the process ends."""

    def close_later(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run `work` in a task of its own: the end of a request can't cancel it."""
        task = asyncio.create_task(work)
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)
        return task


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the clients, and close them after the last settle."""
    billing = AsyncBillingClient(os.environ["DATABASE_URL"], os.environ["BROKER_URL"])
    async with httpx.AsyncClient(timeout=httpx.Timeout(10.0, read=UPSTREAM_SILENCE_S)) as http:
        app.state.relay = Relay(billing, http, os.environ["UPSTREAMS"].split(","))
        yield
        await asyncio.gather(*app.state.relay.closing)
    await billing.close()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(BillingError)
async def refused(_: object, error: BillingError) -> JSONResponse:
    """Every refusal has its code and its HTTP status."""
    return problem(error.status_code, error.code, str(error))


def problem(status: int, code: str, message: str) -> JSONResponse:
    """An error as clients see it."""
    return JSONResponse({"error": {"code": code, "message": message}}, status)


@app.post("/v1/chat")
async def chat(
    asked: Chat, authorization: Annotated[str, Header()], idempotency_key: Annotated[str, Header(max_length=40)]
) -> Response:
    """Hold, call, stream, settle. A client that tries again sends the same `Idempotency-Key`."""
    relay: Relay = app.state.relay
    owner = KEYS.get(authorization.removeprefix("Bearer "))
    if owner is None:
        return problem(401, "unknown_key", "no such API key")
    user_id, token_id = owner
    # Of this key's own: nobody can name another customer's request.
    request_id = f"{token_id}-{idempotency_key}"
    if request_id in relay.running:
        return problem(409, "in_progress", f"request {request_id} is being answered")
    relay.running.add(request_id)
    session = None
    try:
        session = await relay.billing.pre_consume(
            request_id=request_id, user_id=user_id, token_id=token_id, quota=asked.estimate, model_name="example"
        )
        if session.intent is None and session.closed_at is None:
            return await answered(relay, session, asked)
    except BaseException:
        if session is None:
            relay.running.discard(request_id)
        else:
            relay.close_later(closed(relay, session, 0, "relay_error"))
        raise
    # A replay of a request that has ended: calling the upstream again would be given away.
    relay.running.discard(request_id)
    return problem(409, "already_answered", f"request {request_id} has ended ({session.state}); use a new key")


async def answered(relay: Relay, session: AsyncClientSession, asked: Chat) -> Response:
    """The answer of the first upstream that gives one; the hold stands while others are tried."""
    for upstream in relay.upstreams:
        request = relay.http.build_request("POST", upstream, json=asked.model_dump())
        try:
            reply = await relay.http.send(request, stream=True)
        except httpx.HTTPError as error:
            log.warning("upstream %s: %r", upstream, error)
            continue
        if reply.status_code == httpx.codes.OK:
            return Metered(relay, session, reply)
        log.warning("upstream %s: HTTP %d", upstream, reply.status_code)
        await reply.aclose()
    await relay.close_later(closed(relay, session, 0, "upstream_error"))
    return problem(502, "upstream_error", "no upstream could answer; nothing was charged")


class Metered(StreamingResponse):
    """Passes a stream on and counts what it costs. However it ends, its session is closed, once."""

    def __init__(self, relay: Relay, session: AsyncClientSession, reply: httpx.Response) -> None:
        super().__init__(self.events(), media_type="text/event-stream")
        self.relay, self.session, self.reply = relay, session, reply
        self.used = 0
        self.closing: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. A client that hangs up cancels this, maybe before the first event."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.close("client_gone")
            self.relay.close_later(self.reply.aclose())

    async def events(self) -> AsyncIterator[str]:
        """The upstream's events, then one of our own. That one tells the truth: the session is closed before it."""
        last, reason = {"done": True}, None
        try:
            async for line in self.reply.aiter_lines():
                if line.startswith("data: "):
                    self.used += json.loads(line.removeprefix("data: "))["tokens"] * QUOTA_PER_TOKEN
                    yield f"{line}\n\n"
        except (httpx.HTTPError, ValueError, LookupError) as error:
            log.warning("the upstream broke off: %r", error)
            last, reason = {"done": False}, "upstream_error"
        await asyncio.shield(self.close(reason))
        yield f"data: {json.dumps(last)}\n\n"

    def close(self, reason: str | None) -> asyncio.Task[None]:
        """Close the session; the first call says why."""
        if self.closing is None:
            self.closing = self.relay.close_later(closed(self.relay, self.session, self.used, reason))
        return self.closing


async def closed(relay: Relay, session: AsyncClientSession, used: int, reason: str | None) -> None:
    """Settle what was used, or refund where a reason left nothing. Tried again until it is safe, some seconds long."""
    try:
        for number in range(SETTLE_TRIES):
            try:
                if used or reason is None:
                    await session.settle(used, reason)
                else:
                    await session.refund(reason)
            except BillingUnavailable as error:
                log.warning("request %s, quota %d, is not safe yet: %s", session.request_id, used, error)
                await asyncio.sleep(FIRST_PAUSE_S * 2**number)
            else:
                return
        # From this line somebody can still charge it: `sessions settle REQUEST_ID QUOTA`.
        log.critical("request %s, quota %d, could not be closed: %s", session.request_id, used, reason)
    finally:
        relay.running.discard(session.request_id)
