"""The door for a relay that runs threads."""

import atexit
import logging
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Pool

from relay_billing.domain import inputs
from relay_billing.domain.errors import BillingError, BillingUnavailable, UpdateDataError, not_safe
from relay_billing.domain.jobs import Job, RefundJob, SettleJob
from relay_billing.domain.policy import Durability, Policy
from relay_billing.domain.sessions import BillingSession, Closing, PreConsume
from relay_billing.gathering import Gathering, ThreadGatherer
from relay_billing.ledger import Ledger
from relay_billing.metering import meter_of
from relay_billing.publisher import Publisher
from relay_billing.store.drivers import engine_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger("relay_billing")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSession(BillingSession):
    """A session that its relay can close."""

    client: "BillingClient" = field(repr=False, compare=False)
    closing: Closing = field(default_factory=Closing, repr=False, compare=False)

    def settle(self, actual_quota: int, reason: str | None = None) -> None:
        """Charge what was really used: as `BillingClient.settle`."""
        job = SettleJob(self.request_id, actual_quota, reason)
        self.closing.tried = True
        self.client.close_session(job)

    def refund(self, reason: str | None = None) -> None:
        """Give the hold back: as `BillingClient.refund`."""
        job = RefundJob(self.request_id, reason)
        self.closing.tried = True
        self.client.close_session(job)

    def reserve(self, target_quota: int) -> "ClientSession":
        """Raise the hold, at once (semantics §4); returns the session with the new hold."""
        raised = self.client.reserve(self.request_id, target_quota)
        return _bound(raised, self.client, self.closing)


def _bound(session: BillingSession, client: "BillingClient", closing: Closing | None = None) -> ClientSession:
    return ClientSession(**session.values(), client=client, closing=closing or Closing())


def _disconnect_in_child(parent: "weakref.ref[BillingClient]") -> None:
    client = parent()
    if client is not None:
        # Kept, for they are the parent's to close, and psycopg complains of connections that are dropped open.
        client._inherited.append(client._engine.pool)
        client._engine.dispose(close=False)
        client._holds.forget()
        client._ends.forget()


class BillingClient:
    """Holds quota in the relay's process, and hands settles and refunds to the workers. Thread-safe, fork-safe.

    `database_url` is the ledger's (`postgresql://…`, `sqlite:///…`), `broker_url` the queue's (`redis://…`, `amqp://…`,
    `filesystem://FOLDER`), `policy` the same as the workers' (unset: all defaults). Calls of many threads are gathered
    into batches, as `gathering` says (unset: 64 at once, 2 ms). `metrics`: a registry of prometheus-client, which the
    relay serves (unset: nothing is counted). Nothing is opened before it is needed. Raises InvalidRequest for a URL
    that can't be used, or a registry that has another client's metrics.
    """

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
        self._engine = engine_of(database_url)
        self._inherited: list[Pool] = []
        self._ledger = Ledger(self._engine, policy)
        unposted = None if self._meter is None else self._meter.unposted
        self._publisher = Publisher(broker_url, self._ledger.policy.publish_timeout, unposted)
        self._holds = ThreadGatherer(self._hold, how, "relay-billing-holds")
        self._ends = ThreadGatherer(self._end, how, "relay-billing-ends")
        self._watch()
        atexit.register(self.close)
        myself = weakref.ref(self)
        # The parent's connections stay the parent's: a child that closed them would cut the parent off.
        os.register_at_fork(after_in_child=lambda: _disconnect_in_child(myself))

    def _watch(self) -> None:
        if self._meter is not None:
            self._meter.watch("holds", lambda: self._holds.waiting)
            self._meter.watch("ends", lambda: self._ends.waiting)
            self._meter.watch("messages", lambda: self._publisher.waiting)

    def pre_consume(
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
    ) -> ClientSession:
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
            return self._held(request)
        with self._meter.holding() as holding:
            holding.session = session = self._held(request)
        return session

    def _held(self, request: PreConsume) -> ClientSession:
        request.check()
        return _bound(self._holds.call(request), self)

    def _hold(self, requests: Sequence[PreConsume]) -> Sequence[BillingSession | Exception]:
        try:
            return self._ledger.pre_consume_many(requests)
        except UpdateDataError as error:
            # One of them can't be written; its neighbours can.
            return [error] if len(requests) == 1 else [self._hold([each])[0] for each in requests]

    @contextmanager
    def session(
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
    ) -> Iterator[ClientSession]:
        """Pre-consume, and refund when the block is left without a settle or by an exception.

        A settle that was tried is never followed by a refund, even where it raised BillingUnavailable: the call was
        used, so try the settle again; until then the hold stands.
        """
        session = self.pre_consume(
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
                self._refund_after(session, error)
            raise
        if not session.closing.tried:
            session.refund("not_settled")

    def _refund_after(self, session: ClientSession, error: BaseException) -> None:
        try:
            session.refund(type(error).__name__[:64])
        except BillingError as second:
            # The relay's own error matters more; the hold expires by itself.
            log.warning("session %s could not be refunded, its hold will expire: %s", session.request_id, second)

    def settle(self, request_id: str, actual_quota: int, reason: str | None = None) -> None:
        """Charge what was really used. When this returns, the charge is safe (semantics §5, §9).

        `reason`: at most 64 characters, kept on the session. Raises InvalidRequest, or BillingUnavailable: then call
        it again with the same values.
        """
        self.close_session(SettleJob(request_id, actual_quota, reason))

    def refund(self, request_id: str, reason: str | None = None) -> None:
        """Give the hold back. When this returns, the refund is safe (semantics §6, §9). Raises as `settle`."""
        self.close_session(RefundJob(request_id, reason))

    def close_session(self, job: Job) -> None:
        """Make one settle or refund safe, and post it."""
        if self._meter is None:
            self._ends.call(job)
            return
        with self._meter.ending(job):
            self._ends.call(job)

    def _end(self, jobs: Sequence[Job]) -> Sequence[Literal[True] | Exception]:
        """Make jobs safe with one write of intents and one message; an answer for each (semantics §9)."""
        policy = self._ledger.policy
        by_broker = policy.durability is Durability.BROKER
        if not (by_broker and self._publisher.post(jobs).wait(policy.publish_timeout)):
            try:
                self._ledger.intend(jobs)
            except BillingUnavailable as error:
                return [not_safe(job, error) for job in jobs]
        if not by_broker:
            self._publisher.post(jobs)
        return [True] * len(jobs)

    def reserve(self, request_id: str, target_quota: int) -> BillingSession:
        """Raise the hold of an open session, at once: as `Ledger.reserve` (semantics §4)."""
        return self._ledger.reserve(request_id, target_quota)

    def get(self, request_id: str) -> BillingSession:
        """The session as it stands. Raises UnknownSession."""
        return self._ledger.get(request_id)

    def close(self) -> None:
        """Carry out and post what still waits, for at most some seconds, and close all connections."""
        atexit.unregister(self.close)
        self._holds.close()
        self._ends.close()
        self._publisher.close()
        self._engine.dispose()
