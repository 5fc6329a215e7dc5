"""The client for a relay that runs threads."""

import atexit
import logging
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, ParamSpec, TypeVar, Unpack

from sqlalchemy import Pool

from relay_billing.batching.rules import Gathering
from relay_billing.batching.threads import ThreadGatherer
from relay_billing.domain.choices import Durability
from relay_billing.domain.errors import BillingError, not_safe, telling_unsafe
from relay_billing.domain.jobs import Job, RefundJob, SettleJob
from relay_billing.domain.requests import HoldFields, PreConsume
from relay_billing.domain.sessions import BillingSession
from relay_billing.domain.sources import FUNDING
from relay_billing.door import Closing, Door, Waiting
from relay_billing.flows import dry_runs, holds, settlements
from relay_billing.flows.context import Flow, Terms, utc_now
from relay_billing.store.drivers import dialect_of, engine_of, transact

log = logging.getLogger("relay_billing")
P = ParamSpec("P")
T = TypeVar("T")

HOLDS_ALONE = 4
"""Up to this many concurrent holds run alone, one connection each, if a lone hold is one statement (PostgreSQL): a
batch of so few costs more than it saves. Settles and refunds are always gathered, because they share a message."""


@dataclass(frozen=True, kw_only=True)
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
        """Raise the hold now, in the database (semantics §4); returns the session with the new hold."""
        raised = self.client.reserve(self.request_id, target_quota)
        return _bound(raised, self.client, self.closing)


def _bound(session: BillingSession, client: "BillingClient", closing: Closing | None = None) -> ClientSession:
    return session.copied_as(ClientSession, {"client": client, "closing": closing or Closing()})


def _disconnect_in_child(parent: "weakref.ref[BillingClient]") -> None:
    client = parent()
    if client is not None:
        # Kept: only the parent may close these connections, and psycopg warns of connections that are dropped open.
        client._inherited.append(client._engine.pool)
        client._engine.dispose(close=False)
        client._holds.forget()
        client._ends.forget()


class BillingClient(Door):
    """Holds quota in the relay's process, and hands settles and refunds to the workers. Thread-safe, fork-safe.

    Defaults where `gathering` is unset: on PostgreSQL up to 4 concurrent holds are not gathered, because each is one
    statement; on SQLite one batch runs at a time, because a second one would only wait for the write lock.
    """

    def _open(self, database_url: str, gathering: Gathering | None) -> tuple[Waiting, Waiting]:
        how = gathering or Gathering()
        self._engine = engine_of(database_url)
        dialect = dialect_of(self._engine, fast_paths=not self._policy.cache_deltas)
        alone = HOLDS_ALONE if gathering is None and dialect.fast is not None else how.alone
        if gathering is None and dialect.one_writer:
            how = replace(how, lanes=1)
        self._inherited: list[Pool] = []
        # Not a Ledger: a relay need not import the flows of operators.
        self._terms = Terms(self._policy, utc_now, FUNDING, dialect)
        self._holds: ThreadGatherer[PreConsume, BillingSession] = ThreadGatherer(
            # mypy follows no ParamSpec through partial; a lambda would be one more call per hold.
            partial(self._run, holds.pre_consume),  # type: ignore[call-arg]
            replace(how, alone=alone),
        )
        self._ends = ThreadGatherer(self._make_safe, replace(how, alone=1), not_safe)
        atexit.register(self.close)
        myself = weakref.ref(self)
        # The child must not close the parent's connections: that would disconnect the parent.
        os.register_at_fork(after_in_child=lambda: _disconnect_in_child(myself))
        return self._holds, self._ends

    def _run(self, flow: Flow[P, T], *args: P.args, **options: P.kwargs) -> T:
        return transact(self._engine, self._terms.dialect, lambda: self._terms.steps(flow, *args, **options))

    def read(self, flow: Flow[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run a flow of `relay_billing.flows` that changes nothing: it waits for no writer. Raises its errors."""
        make = lambda: self._terms.steps(flow, *args, **options)  # noqa: E731, mypy knows no P in a def
        return transact(self._engine, self._terms.dialect, make, reading=True)

    def pre_consume(self, **fields: Unpack[HoldFields]) -> ClientSession:
        """Hold `quota` before the call goes out: as `Ledger.pre_consume`, with its errors (semantics §3)."""
        with self._meter.holding() as holding:
            request = PreConsume.checked(fields)
            holding.session = session = self._holds.call(request)
        return _bound(session, self)

    def would_hold(self, **fields: Unpack[HoldFields]) -> BillingSession:
        """Dry run: the session that `pre_consume` would return now, or its error; nothing moves or is locked."""
        return self.read(dry_runs.would_hold, PreConsume.checked(fields))

    @contextmanager
    def session(self, **fields: Unpack[HoldFields]) -> Iterator[ClientSession]:
        """Pre-consume, and refund when the block is left without a settle or by an exception.

        After a settle was tried, the block never refunds, even if the settle raised BillingUnavailable: the model has
        been called, so try the settle again; until then the hold stands.
        """
        session = self.pre_consume(**fields)
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
        with self._meter.ending(job), telling_unsafe(job):
            self._ends.call(job)

    def _make_safe(self, jobs: Sequence[Job]) -> Sequence[Literal[True]]:
        """One write of intents and one message for all of them (semantics §9)."""
        by_broker = self._policy.durability is Durability.BROKER
        if not (by_broker and self._publisher.post(jobs).wait(self._policy.publish_timeout)):
            self._run(settlements.intend, jobs)
        if not by_broker:
            self._publisher.post(jobs)
        return [True] * len(jobs)

    def reserve(self, request_id: str, target_quota: int) -> BillingSession:
        """Raise the hold of an open session now: as `Ledger.reserve` (semantics §4)."""
        return self._run(holds.reserve, request_id, target_quota)

    def get(self, request_id: str) -> BillingSession:
        """The session as it stands. Raises UnknownSession."""
        return self.read(holds.get, request_id)

    def close(self) -> None:
        """Carry out and post all waiting calls, for a bounded number of seconds, and close all connections."""
        atexit.unregister(self.close)
        self._holds.close()
        self._ends.close()
        self._publisher.close()
        self._engine.dispose()
