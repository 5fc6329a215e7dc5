"""The client for a relay that runs asyncio: the same methods, awaited."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, ParamSpec, TypeVar, Unpack

from relay_billing.batching.rules import CLOSE_TIMEOUT_S, Gathering
from relay_billing.batching.tasks import TaskGatherer
from relay_billing.domain.choices import Durability
from relay_billing.domain.errors import BillingError, BillingUnavailable, not_safe, telling_unsafe
from relay_billing.domain.jobs import Job, RefundJob, SettleJob
from relay_billing.domain.requests import HoldFields, PreConsume
from relay_billing.domain.sessions import BillingSession, State
from relay_billing.domain.sources import FUNDING
from relay_billing.door import Closing, Door, Waiting
from relay_billing.flows import dry_runs, holds, settlements
from relay_billing.flows.context import Flow, Terms, utc_now
from relay_billing.store.async_drivers import async_engine_of, atransact
from relay_billing.store.drivers import dialect_of

log = logging.getLogger("relay_billing")
P = ParamSpec("P")
T = TypeVar("T")

YOUNG_MS = 1_000
"""A cancelled call gives back only a hold younger than this: an older one was taken by an earlier call of its id."""


@dataclass(frozen=True, kw_only=True)
class AsyncClientSession(BillingSession):
    """A session that its relay can close, awaited."""

    client: "AsyncBillingClient" = field(repr=False, compare=False)
    closing: Closing = field(default_factory=Closing, repr=False, compare=False)

    async def settle(self, actual_quota: int, reason: str | None = None) -> None:
        """Charge what was really used: as `AsyncBillingClient.settle`."""
        job = SettleJob(self.request_id, actual_quota, reason)
        self.closing.tried = True
        await self.client.close_session(job)

    async def refund(self, reason: str | None = None) -> None:
        """Give the hold back: as `AsyncBillingClient.refund`."""
        job = RefundJob(self.request_id, reason)
        self.closing.tried = True
        await self.client.close_session(job)

    async def reserve(self, target_quota: int) -> "AsyncClientSession":
        """Raise the hold now, in the database (semantics §4); returns the session with the new hold."""
        raised = await self.client.reserve(self.request_id, target_quota)
        return _bound(raised, self.client, self.closing)


def _bound(session: BillingSession, client: "AsyncBillingClient", closing: Closing | None = None) -> AsyncClientSession:
    return session.copied_as(AsyncClientSession, {"client": client, "closing": closing or Closing()})


class AsyncBillingClient(Door):
    """As `BillingClient`, for asyncio. One client belongs to one event loop; SQLite needs the extra `asyncio`."""

    def _open(self, database_url: str, gathering: Gathering | None) -> tuple[Waiting, Waiting]:
        how = gathering or Gathering()
        self._engine = async_engine_of(database_url)
        self._terms = Terms(
            self._policy, utc_now, FUNDING, dialect_of(self._engine, fast_paths=not self._policy.cache_deltas)
        )
        if gathering is None and self._terms.dialect.one_writer:
            how = replace(how, lanes=1)
        self._holds: TaskGatherer[PreConsume, BillingSession] = TaskGatherer(
            # mypy follows no ParamSpec through partial; a lambda would be one more call per hold.
            partial(self._run, holds.pre_consume),  # type: ignore[call-arg]
            how,
            self._give_back,
        )
        self._ends = TaskGatherer(self._make_safe, replace(how, alone=1), refused=not_safe)
        return self._holds, self._ends

    async def _run(self, flow: Flow[P, T], *args: P.args, **options: P.kwargs) -> T:
        make = lambda: self._terms.steps(flow, *args, **options)  # noqa: E731, mypy knows no P in a def
        return await atransact(self._engine, self._terms.dialect, make)

    async def read(self, flow: Flow[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run a flow of `relay_billing.flows` that changes nothing: it waits for no writer. Raises its errors."""
        make = lambda: self._terms.steps(flow, *args, **options)  # noqa: E731, mypy knows no P in a def
        return await atransact(self._engine, self._terms.dialect, make, reading=True)

    async def pre_consume(self, **fields: Unpack[HoldFields]) -> AsyncClientSession:
        """Hold `quota` before the call goes out: as `Ledger.pre_consume`, with its errors (semantics §3)."""
        return _bound(await self.hold(fields), self)

    async def hold(self, fields: HoldFields) -> BillingSession:
        """As `pre_consume`, for a caller that closes sessions by their id.

        The session says itself whether it is `replayed` (semantics §3.1).
        """
        with self._meter.holding() as holding:
            request = PreConsume.checked(fields)
            holding.session = session = await self._holds.call(request)
        return session

    async def would_hold(self, **fields: Unpack[HoldFields]) -> BillingSession:
        """Dry run: the session that `pre_consume` would return now, or its error; nothing moves or is locked."""
        return await self.read(dry_runs.would_hold, PreConsume.checked(fields))

    async def _give_back(self, request: PreConsume, session: BillingSession) -> None:
        """Refund the hold of a call that was cancelled meanwhile: its caller never gets the session."""
        if session.state is State.PRECONSUMED and session.created_at >= self._terms.now_ms() - YOUNG_MS:
            try:
                await self._make_safe([RefundJob(request.request_id, "cancelled")])
            except BillingUnavailable:
                log.warning("session %s of a cancelled call keeps its hold until it expires", request.request_id)

    @asynccontextmanager
    async def session(self, **fields: Unpack[HoldFields]) -> AsyncIterator[AsyncClientSession]:
        """Pre-consume, and refund when the block is left without a settle or by an exception, a cancellation too."""
        session = await self.pre_consume(**fields)
        try:
            yield session
        except BaseException as error:
            if not session.closing.tried:
                await asyncio.shield(self._refund_after(session, error))
            raise
        if not session.closing.tried:
            await session.refund("not_settled")

    async def _refund_after(self, session: AsyncClientSession, error: BaseException) -> None:
        try:
            await session.refund(type(error).__name__[:64])
        except BillingError as second:
            # The relay's own error matters more; the hold expires by itself.
            log.warning("session %s could not be refunded, its hold will expire: %s", session.request_id, second)

    async def settle(self, request_id: str, actual_quota: int, reason: str | None = None) -> None:
        """Charge what was really used. When this returns, the charge is safe (semantics §5, §9)."""
        await self.close_session(SettleJob(request_id, actual_quota, reason))

    async def refund(self, request_id: str, reason: str | None = None) -> None:
        """Give the hold back. When this returns, the refund is safe (semantics §6, §9)."""
        await self.close_session(RefundJob(request_id, reason))

    async def close_session(self, job: Job) -> None:
        """Make one settle or refund safe, and post it."""
        with self._meter.ending(job), telling_unsafe(job):
            await self._ends.call(job)

    async def _make_safe(self, jobs: Sequence[Job]) -> Sequence[Literal[True]]:
        """One write of intents and one message for all of them (semantics §9)."""
        by_broker = self._policy.durability is Durability.BROKER
        if not (by_broker and await self._confirmed(jobs)):
            await self._run(settlements.intend, jobs)
        if not by_broker:
            self._publisher.post(jobs)
        return [True] * len(jobs)

    async def _confirmed(self, jobs: Sequence[Job]) -> bool:
        receipt = self._publisher.post(jobs)
        return await asyncio.to_thread(receipt.wait, self._policy.publish_timeout)

    async def abandon(self, request_ids: Sequence[str]) -> None:
        """Give back holds whose callers went before they had their answers (semantics §8); 1 to 500.

        They are closed as if they had expired: a settle that comes all the same is charged. Sessions that have ended,
        or whose end is recorded, stay as they are. Raises BillingUnavailable.
        """
        await self._run(settlements.abandon, request_ids)

    async def reserve(self, request_id: str, target_quota: int) -> BillingSession:
        """Raise the hold of an open session now: as `Ledger.reserve` (semantics §4)."""
        return await self._run(holds.reserve, request_id, target_quota)

    async def get(self, request_id: str) -> BillingSession:
        """The session as it stands. Raises InvalidRequest or UnknownSession."""
        return await self.read(holds.get, request_id)

    async def close(self) -> None:
        """Carry out and post all waiting calls, for a bounded number of seconds, and close all connections."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._holds.close()
                await self._ends.close()
        except TimeoutError:
            # Calls under way end by their own time-outs; their callers get their answers then.
            log.warning("closed while the database does not answer, with calls under way")
        await asyncio.to_thread(self._publisher.close)
        await self._engine.dispose()
