"""Runs flows on an engine, each in one transaction, whether for one item or five hundred."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar, Unpack

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from relay_billing.domain import checks
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.errors import BillingError, BillingUnavailable, InvalidRequest
from relay_billing.domain.funding import FundingSource
from relay_billing.domain.jobs import RefundJob, SettleJob
from relay_billing.domain.outcomes import Answer, Outcome
from relay_billing.domain.ownership import Accounts
from relay_billing.domain.policy import MAX_SECONDS, Policy
from relay_billing.domain.requests import HoldFields, PreConsume
from relay_billing.domain.sessions import BillingSession
from relay_billing.domain.sources import FUNDING
from relay_billing.domain.top_ups import ToppedUp, TopUp
from relay_billing.flows import (
    adoption,
    holds,
    overview,
    reconcile,
    retention,
    settlements,
    subscriptions,
    sweeps,
    top_ups,
)
from relay_billing.flows.context import BATCH, MAX_BATCHES, Clock, Context, Flow, Terms, utc_now
from relay_billing.flows.overview import Overview
from relay_billing.flows.reconcile import Drift
from relay_billing.flows.sweeps import Expired
from relay_billing.store.commands import Steps
from relay_billing.store.drivers import dialect_of, streamed, transact
from relay_billing.store.failures import cause_of
from relay_billing.store.waits import LONG_STATEMENT_TIMEOUT_S

log = logging.getLogger("relay_billing")
P = ParamSpec("P")
T = TypeVar("T")


class Ledger:
    """Holds, settles and refunds, each exactly once, on PostgreSQL, MySQL, MariaDB or SQLite (semantics §2 to §10).

    `engine` is yours to configure and dispose of. `policy` (unset: all defaults) must be the same in relay and worker;
    `clock` returns an aware datetime, for tests that step it; `fast_paths` False: the general path decides everything.
    Every method commits its own transaction, on PostgreSQL after the auto-committed statement of the fast path, and
    raises BillingUnavailable when the database can't be reached in a bounded number of attempts.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy | None = None,
        clock: Clock = utc_now,
        funding: tuple[FundingSource, ...] = FUNDING,
        *,
        fast_paths: bool = True,
    ) -> None:
        self._engine = engine
        chosen = policy or Policy()
        # A fast path keeps no deltas for caches.
        dialect = dialect_of(engine, fast_paths=fast_paths and not chosen.cache_deltas)
        self._terms = Terms(chosen, clock, funding, dialect)

    @property
    def policy(self) -> Policy:
        """The policy that every decision here follows."""
        return self._terms.policy

    def run(self, flow: Flow[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run a flow of `relay_billing.flows` in one transaction; return its result, or raise its errors."""
        return transact(self._engine, self._terms.dialect, lambda: self._terms.steps(flow, *args, **options))

    def read(self, flow: Flow[P, T], *args: P.args, **options: P.kwargs) -> T:
        """As `run`, for a flow that changes nothing: it waits for no writer."""
        make = lambda: self._terms.steps(flow, *args, **options)  # noqa: E731, mypy knows no P in a def
        return transact(self._engine, self._terms.dialect, make, reading=True)

    def run_in_batches(self, flow: Flow[P, int], *args: P.args, **options: P.kwargs) -> int:
        """Repeat a flow that handles up to `BATCH` rows until fewer are left; return how many rows in all.

        Each of its statements may take `LONG_STATEMENT_TIMEOUT_S`.
        """
        make = lambda: self._terms.steps(flow, *args, **options)  # noqa: E731, mypy knows no P in a def
        done = 0
        for _ in range(MAX_BATCHES):
            batch = transact(self._engine, self._terms.dialect, make, allowed_s=LONG_STATEMENT_TIMEOUT_S)
            done += batch
            if batch < BATCH:
                break
        return done

    def pre_consume(self, **fields: Unpack[HoldFields]) -> BillingSession:
        """Hold `quota` for one request and return its session; the same request again moves nothing (semantics §3).

        Raises InvalidRequest, IdempotencyConflict, InsufficientUserQuota, PreConsumeTokenQuotaFailed, QueryDataError or
        BillingUnavailable; then nothing has moved.
        """
        request = PreConsume.checked(fields)
        (answer,) = self.run(holds.pre_consume, [request])
        if isinstance(answer, BillingError):
            raise answer
        return answer

    def pre_consume_many(self, requests: Sequence[PreConsume]) -> list[BillingSession | BillingError]:
        """Hold for 1 to 500 requests; return a session or an error for each, in order (semantics §3).

        Each is held whole or not at all. BillingUnavailable: some may be held; the same requests again are replays.
        """
        checks.batch("requests", len(requests))
        refused = {index: error for index, each in enumerate(requests) if (error := _refusal(each)) is not None}
        valid = [each for index, each in enumerate(requests) if index not in refused]
        answers = iter(self.run(holds.pre_consume, valid) if valid else [])
        return [refused[index] if index in refused else next(answers) for index in range(len(requests))]

    def reserve(self, request_id: str, target_quota: int) -> BillingSession:
        """Raise the hold of an open session to `target_quota`, or change nothing (semantics §4).

        Raises InvalidRequest, UnknownSession, or the errors of `pre_consume`; then nothing has moved.
        """
        return self.run(holds.reserve, request_id, target_quota)

    def get(self, request_id: str) -> BillingSession:
        """The session as it stands. Raises InvalidRequest or UnknownSession."""
        return self.read(holds.get, request_id)

    def apply(self, jobs: Sequence[SettleJob | RefundJob]) -> list[Outcome]:
        """Settle and refund 1 to 500 sessions; return one outcome a job, in order (semantics §5, §6).

        Each is applied whole or not at all. BillingUnavailable: some may be; the same jobs again are duplicates.
        """
        return [answer.outcome for answer in self.run(settlements.apply, jobs)]

    def intend(self, jobs: Sequence[SettleJob | RefundJob]) -> None:
        """Record 1 to 500 settles and refunds on their sessions, for message or sweep to apply (semantics §9)."""
        self.run(settlements.intend, jobs)

    def expire_holds(self) -> int:
        """Close holds that nobody closed in time; return how many (semantics §8)."""
        return self.sweep_holds().holds

    def sweep_holds(self) -> Expired:
        """As `expire_holds`, with the quota that they held."""
        closed = Expired(0, 0, 0)
        for _ in range(MAX_BATCHES):
            batch = self.run(sweeps.expire)
            closed += batch
            if batch.looked_at < BATCH:
                break
        return closed

    def apply_intents(self) -> int:
        """Apply recorded intents whose message did not come in `intent_grace`; return how many (semantics §9)."""
        return self.sweep(sweeps.apply_intents).total()

    def sweep(
        self, flow: Callable[[Context], Steps[list[Answer]]], tell: Callable[[Answer], None] | None = None
    ) -> Counter[Outcome]:
        """Repeat a flow that judges up to `BATCH` jobs until fewer are left; return how many by outcome.

        `tell` is called with each answer once its batch is committed; unset: nothing is called.
        """
        outcomes: Counter[Outcome] = Counter()
        for _ in range(MAX_BATCHES):
            answers = self.run(flow)
            outcomes.update(answer.outcome for answer in answers)
            if tell is not None:
                for answer in answers:
                    tell(answer)
            if len(answers) < BATCH:
                break
        return outcomes

    def reset_subscriptions(self) -> int:
        """Begin due periods and end subscriptions whose time is over; return how many changed (semantics §7)."""
        moved, after_id = 0, 0
        for _ in range(MAX_BATCHES):
            batch = self.run(subscriptions.turn, after_id)
            moved += batch.moved
            if batch.last_id is None:
                break
            after_id = batch.last_id
        return moved

    def top_up(self, *, user_id: int, quota: int, reference: str, note: str | None = None) -> ToppedUp:
        """Put `quota` into a user's wallet; the same reference again moves nothing (semantics §10).

        Raises InvalidRequest, ReferenceConflict (the reference is known with another user or amount), QueryDataError
        (no such user) or BillingUnavailable; then nothing has moved.
        """
        return self.run(top_ups.top_up, TopUp(user_id, quota, reference, note))

    def purge(self, retention_s: int) -> int:
        """Remove sessions closed longer ago than `retention_s` seconds, with their ledger rows; return how many.

        One opening row per account carries their sum forward, so that the ledger still adds up (semantics §10).
        """
        checks.whole("retention_s", retention_s, 1, MAX_SECONDS)
        return self.run_in_batches(retention.purge, self._terms.now_ms() - retention_s * 1000)

    def reconcile(self, since_ms: int | None = None, user_id: int | None = None) -> list[Drift]:
        """Prove that accounts, sessions and ledger agree; return the drifts, empty if all agree (semantics §10).

        What others have changed in a relay's accounts is no drift: `findings` has it too (semantics §12).
        `since_ms`: only what has moved since then (Unix milliseconds); `user_id`: only that user's; unset: everything.
        """
        return list(self.drifts(since_ms, user_id))

    def drifts(self, since_ms: int | None = None, user_id: int | None = None) -> Iterator[Drift]:
        """As `reconcile`, one by one: memory is bounded whatever the tables' size."""
        return (each for each in self.findings(since_ms, user_id) if not each.outside)

    def findings(self, since_ms: int | None = None, user_id: int | None = None) -> Iterator[Drift]:
        """As `drifts`, with the accounts that others have changed, which are `outside` (semantics §12).

        The result of a full reconciliation is recorded when it has been read to its end: the next `overview` shows it.
        """
        began, found, quota = time.monotonic(), 0, 0
        foreign = self.policy.accounts is Accounts.NEW_API
        try:
            for what, of, expected, balance in streamed(self._engine, reconcile.proofs(since_ms, user_id)):
                outside = foreign and what in list(AccountType)
                drift = Drift(what, str(of), int(expected), int(balance), outside)
                if not outside:
                    found, quota = found + 1, quota + abs(drift.difference)
                yield drift
        except OperationalError as error:
            raise BillingUnavailable(f"the database can't be read: {cause_of(error)}") from error
        if since_ms is None and user_id is None:
            self._remember_proof(round((time.monotonic() - began) * 1000), found, quota)

    def adopt(self, found: Sequence[Drift]) -> list[Drift]:
        """Write a ledger row for each account that others have changed; return what was explained (semantics §12).

        `found`: of `findings`; those that are not `outside` are left out. No balance changes. Raises InvalidRequest
        where the accounts are our own.
        """
        outside, explained = [each for each in found if each.outside], list[Drift]()
        for begin in range(0, len(outside), BATCH):
            explained += self.run(adoption.adopt, outside[begin : begin + BATCH])
        return explained

    def _remember_proof(self, duration_ms: int, drifts: int, drift_quota: int) -> None:
        try:
            self.run(reconcile.remember, duration_ms, drifts, drift_quota)
        except BillingUnavailable as error:
            # The reconciliation itself is complete; only the next `overview` lacks its result.
            log.warning("the proof could not be remembered: %s", error)

    def overview(self) -> Overview:
        """Totals of open holds, waiting intents and dead letters, with the last reconciliation; read by index."""
        return self.read(overview.overview)


def _refusal(request: PreConsume) -> InvalidRequest | None:
    """Why a request can't be used; None: it can."""
    try:
        request.check()
    except InvalidRequest as error:
        return error
    return None
