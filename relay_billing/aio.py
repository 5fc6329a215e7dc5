"""The door for a relay that runs asyncio: the same words, awaited."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from relay_billing.domain import inputs
from relay_billing.domain.errors import BillingError, BillingUnavailable, UpdateDataError, not_safe
from relay_billing.domain.funding import FUNDING
from relay_billing.domain.jobs import Job, RefundJob, SettleJob
from relay_billing.domain.policy import Durability, Policy
from relay_billing.domain.sessions import BillingSession, Closing, PreConsume, State
from relay_billing.gathering import Gathering, TaskGatherer
from relay_billing.metering import meter_of
from relay_billing.publisher import Publisher
from relay_billing.store.adrivers import aat_once, async_engine_of, atransact
from relay_billing.store.commands import Steps
from relay_billing.store.drivers import dialect_of
from relay_billing.usecases import UseCases, utc_now

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger("relay_billing")
T = TypeVar("T")

YOUNG_MS = 1_000
"""A cancelled call gives back only a hold that it has just taken itself, not one that it was a replay of."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
        """Raise the hold, at once (semantics §4); returns the session with the new hold."""
        raised = await self.client.reserve(self.request_id, target_quota)
        return _bound(raised, self.client, self.closing)


def _bound(session: BillingSession, client: "AsyncBillingClient", closing: Closing | None = None) -> AsyncClientSession:
    return AsyncClientSession(**session.values(), client=client, closing=closing or Closing())


class AsyncBillingClient:
    """As `BillingClient`, for asyncio. One client belongs to one event loop; SQLite needs the extra `asyncio`."""

    def __init__(
        self,
        database_url: str,
        broker_url: str,
        policy: Policy | None = None,
        gathering: Gathering | None = None,
        metrics: "CollectorRegistry | None" = None,
    ) -> None:
        how = gathering or Gathering()
        self._meter = meter_of(metrics)
        self._engine = async_engine_of(database_url)
        self._holds = TaskGatherer(self._hold, how, self._give_back)
        self._ends = TaskGatherer(self._end, how)
        self._policy = policy or Policy()
        self._cases = UseCases(self._policy, utc_now, FUNDING, dialect_of(self._engine))
        unposted = None if self._meter is None else self._meter.unposted
        self._publisher = Publisher(broker_url, self._policy.publish_timeout, unposted)
        self._watch()

    async def _run(self, make: Callable[[], Steps[T]]) -> T:
        return await atransact(self._engine, self._cases.dialect, make)

    def _watch(self) -> None:
        if self._meter is not None:
            self._meter.watch("holds", lambda: self._holds.waiting)
            self._meter.watch("ends", lambda: self._ends.waiting)
            self._meter.watch("messages", lambda: self._publisher.waiting)

    async def pre_consume(
        self,
        *,
        request_id: str,
        user_id: int,
        token_id: int | None = None,
        quota: int,
        model_name: str = "",
        preference: str | None = "",
        playground: bool = False,
        force_pre_consume: bool = False,
        hold_ttl: int | None = None,
        **unknown: object,
    ) -> AsyncClientSession:
        """Hold `quota` before the call goes out: as `Ledger.pre_consume`, with its errors (semantics §3)."""
        inputs.no_unknown(unknown, "pre_consume")
        request = PreConsume(
            request_id,
            user_id,
            token_id,
            quota,
            model_name,
            preference,
            playground,
            force_pre_consume,
            hold_ttl,
        )
        if self._meter is None:
            return await self._held(request)
        with self._meter.holding() as holding:
            holding.session = session = await self._held(request)
        return session

    async def _held(self, request: PreConsume) -> AsyncClientSession:
        request.check()
        return _bound(await self._holds.call(request), self)

    async def _hold(self, requests: Sequence[PreConsume]) -> Sequence[BillingSession | Exception]:
        usual = self._cases.at_once(requests)
        session = None if usual is None else await aat_once(self._engine, usual)
        if session is not None:
            return [session]
        try:
            return await self._run(lambda: self._cases.pre_consume(requests))
        except UpdateDataError as error:
            # One of them can't be written; its neighbours can.
            return [error] if len(requests) == 1 else [(await self._hold([each]))[0] for each in requests]

    async def _give_back(self, request: PreConsume, session: BillingSession) -> None:
        """The caller was cancelled while its hold was taken: nobody else knows of it."""
        if session.state is State.PRECONSUMED and session.created_at >= self._cases.now_ms() - YOUNG_MS:
            (answer,) = await self._end([RefundJob(request.request_id, "cancelled")])
            if isinstance(answer, Exception):
                log.warning("session %s of a cancelled call keeps its hold until it expires", request.request_id)

    @asynccontextmanager
    async def session(
        self,
        *,
        request_id: str,
        user_id: int,
        token_id: int | None = None,
        quota: int,
        model_name: str = "",
        preference: str | None = "",
        playground: bool = False,
        force_pre_consume: bool = False,
        hold_ttl: int | None = None,
        **unknown: object,
    ) -> AsyncIterator[AsyncClientSession]:
        """Pre-consume, and refund when the block is left without a settle or by an exception, a cancellation too."""
        session = await self.pre_consume(
            request_id=request_id,
            user_id=user_id,
            token_id=token_id,
            quota=quota,
            model_name=model_name,
            preference=preference,
            playground=playground,
            force_pre_consume=force_pre_consume,
            hold_ttl=hold_ttl,
            **unknown,
        )
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
        if self._meter is None:
            await self._ends.call(job)
            return
        with self._meter.ending(job):
            await self._ends.call(job)

    async def _end(self, jobs: Sequence[Job]) -> Sequence[Literal[True] | Exception]:
        """Make jobs safe with one write of intents and one message; an answer for each (semantics §9)."""
        by_broker = self._policy.durability is Durability.BROKER
        if not (by_broker and await self._posted(jobs)):
            try:
                await self._run(lambda: self._cases.intend(jobs))
            except BillingUnavailable as error:
                return [not_safe(job, error) for job in jobs]
        if not by_broker:
            self._publisher.post(jobs)
        return [True] * len(jobs)

    async def _posted(self, jobs: Sequence[Job]) -> bool:
        receipt = self._publisher.post(jobs)
        return await asyncio.to_thread(receipt.wait, self._policy.publish_timeout)

    async def reserve(self, request_id: str, target_quota: int) -> BillingSession:
        """Raise the hold of an open session, at once: as `Ledger.reserve` (semantics §4)."""
        inputs.request_id(request_id)
        inputs.quota("target_quota", target_quota)
        return await self._run(lambda: self._cases.reserve(request_id, target_quota))

    async def get(self, request_id: str) -> BillingSession:
        """The session as it stands. Raises UnknownSession."""
        return await self._run(lambda: self._cases.get(request_id))

    async def close(self) -> None:
        """Post what still waits, for at most a few seconds, and close all connections."""
        await self._holds.close()
        await self._ends.close()
        await asyncio.to_thread(self._publisher.close)
        await self._engine.dispose()
