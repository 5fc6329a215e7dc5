"""Joins: each use case is carried out in one transaction, for one item or five hundred. Nothing else commits."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from relay_billing import deadletters, webhooks
from relay_billing.deadletters import DeadLetter, Filter, Resolution
from relay_billing.domain import inputs
from relay_billing.domain.errors import BillingError, BillingUnavailable
from relay_billing.domain.funding import FUNDING, FundingSource
from relay_billing.domain.jobs import Answer, Outcome, RefundJob, SettleJob
from relay_billing.domain.policy import MAX_SECONDS, Policy
from relay_billing.domain.sessions import BillingSession, PreConsume
from relay_billing.domain.topups import ToppedUp, TopUp
from relay_billing.overview import Overview, read
from relay_billing.reconcile import Drift, drifts, remember
from relay_billing.store import retention
from relay_billing.store.commands import Steps
from relay_billing.store.drivers import at_once, dialect_of, transact
from relay_billing.usecases import MAX_SWEEP_BATCHES, SWEEP_BATCH, Clock, Expired, UseCases, utc_now
from relay_billing.webhooks import Webhook

T = TypeVar("T")


class Ledger:
    """The books: holds, settles and refunds, each exactly once, on PostgreSQL or SQLite (semantics §2 to §10).

    `engine` is yours to configure and dispose of. `policy` must be the same in relay and worker; `clock` returns an
    aware datetime, for tests that step it. Every method commits its own transaction and raises BillingUnavailable when
    the database can't be reached in a bounded number of attempts.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy | None = None,
        clock: Clock = utc_now,
        funding: tuple[FundingSource, ...] = FUNDING,
    ) -> None:
        self._engine = engine
        self._cases = UseCases(policy or Policy(), clock, funding, dialect_of(engine))

    @property
    def policy(self) -> Policy:
        """The policy that every decision here follows."""
        return self._cases.policy

    def _run(self, make: Callable[[], Steps[T]]) -> T:
        return transact(self._engine, self._cases.dialect, make)

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
    ) -> BillingSession:
        """Hold `quota` for one request and return its session; the same request again moves nothing (semantics §3).

        Raises InvalidRequest, IdempotencyConflict, InsufficientUserQuota, PreConsumeTokenQuotaFailed, QueryDataError or
        BillingUnavailable; then nothing has moved.
        """
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
        request.check()
        (answer,) = self.pre_consume_many([request])
        if isinstance(answer, BillingError):
            raise answer
        return answer

    def pre_consume_many(self, requests: Sequence[PreConsume]) -> list[BillingSession | BillingError]:
        """Hold for 1 to 500 requests in one transaction; return a session or an error for each (semantics §3)."""
        inputs.batch("requests", len(requests))
        usual = self._cases.at_once(requests)
        session = None if usual is None else at_once(self._engine, usual)
        if session is not None:
            return [session]
        return self._run(lambda: self._cases.pre_consume(requests))

    def reserve(self, request_id: str, target_quota: int) -> BillingSession:
        """Raise the hold of an open session to `target_quota`, or change nothing (semantics §4).

        Raises UnknownSession, or the errors of `pre_consume`; then nothing has moved.
        """
        inputs.request_id(request_id)
        inputs.quota("target_quota", target_quota)
        return self._run(lambda: self._cases.reserve(request_id, target_quota))

    def get(self, request_id: str) -> BillingSession:
        """The session as it stands. Raises UnknownSession."""
        return self._run(lambda: self._cases.get(request_id))

    def apply(self, jobs: Sequence[SettleJob | RefundJob]) -> list[Outcome]:
        """Settle and refund 1 to 500 sessions in one transaction; one outcome a job, in order (semantics §5, §6)."""
        return [answer.outcome for answer in self.judge(jobs)]

    def judge(self, jobs: Sequence[SettleJob | RefundJob]) -> list[Answer]:
        """As `apply`, with the reason, the user and the quota at stake of each."""
        inputs.batch("jobs", len(jobs))
        return self._run(lambda: self._cases.apply(jobs))

    def intend(self, jobs: Sequence[SettleJob | RefundJob]) -> None:
        """Record settles and refunds on their sessions, to be applied by message or sweep (semantics §9)."""
        inputs.batch("jobs", len(jobs))
        self._run(lambda: self._cases.intend(jobs))

    def expire_holds(self) -> int:
        """Close holds that nobody closed in time; return how many (semantics §8)."""
        return self.sweep_holds().holds

    def sweep_holds(self) -> Expired:
        """As `expire_holds`, with the quota that they held."""
        closed = Expired(0, 0)
        for _ in range(MAX_SWEEP_BATCHES):
            seen, batch = self._run(self._cases.expire)
            closed = Expired(closed.holds + batch.holds, closed.quota + batch.quota)
            if seen < SWEEP_BATCH:
                break
        return closed

    def apply_intents(self) -> int:
        """Apply recorded intents whose message did not come in `intent_grace`; return how many (semantics §9)."""
        return self.sweep_intents().total()

    def sweep_intents(self, tell: Callable[[Answer], None] | None = None) -> Counter[Outcome]:
        """As `apply_intents`, by outcome. `tell` is called with each answer once its batch is committed."""
        outcomes: Counter[Outcome] = Counter()
        for _ in range(MAX_SWEEP_BATCHES):
            answers = self._run(self._cases.sweep_intents)
            outcomes.update(answer.outcome for answer in answers)
            if tell is not None:
                for answer in answers:
                    tell(answer)
            if len(answers) < SWEEP_BATCH:
                break
        return outcomes

    def reset_subscriptions(self) -> int:
        """Begin due periods and end subscriptions whose time is over; return how many changed (semantics §7)."""
        moved, after = 0, 0
        for _ in range(MAX_SWEEP_BATCHES):
            last, now_moved = self._run(lambda after=after: self._cases.turn(after))  # type: ignore[misc]
            moved += now_moved
            if last is None:
                break
            after = last
        return moved

    def top_up(self, *, user_id: int, quota: int, reference: str, note: str | None = None) -> ToppedUp:
        """Put `quota` into a user's wallet; the same reference again moves nothing (semantics §10).

        Raises InvalidRequest, ReferenceConflict (the reference is known with another user or amount), QueryDataError
        (no such user) or BillingUnavailable; then nothing has moved.
        """
        asked = TopUp(user_id, quota, reference, note)
        return self._run(lambda: self._cases.top_up(asked))

    def bury(self, letters: Sequence[deadletters.Letter]) -> None:
        """Keep dead letters made by `relay_billing.deadletters`."""
        self._run(lambda: self._cases.bury(letters))

    def dead_letters(self, chosen: Filter | None = None) -> list[DeadLetter]:
        """The jobs that could not be applied, oldest first; unset: the first 100 that nobody has dealt with."""
        return self._run(lambda: deadletters.find(chosen or Filter()))

    def replay(self, letter_id: int) -> Resolution:
        """Judge a dead letter's job afresh; safe to repeat (semantics §5)."""
        inputs.row_id("id", letter_id)
        return self._run(lambda: self._cases.replay(letter_id))

    def write_off(self, letter_id: int, reason: str) -> Resolution:
        """Give up what a dead letter has at stake: a parked session's hold goes back, and the ledger says why.

        `reason`: 1 to 255 characters. Safe to repeat.
        """
        inputs.row_id("id", letter_id)
        inputs.text("reason", reason, 1, deadletters.MAX_NOTE)
        return self._run(lambda: self._cases.write_off(letter_id, reason))

    def purge_dead_letters(self, before_ms: int) -> int:
        """Remove letters that were dealt with before then (Unix milliseconds); return how many."""
        return self._run(lambda: deadletters.purge(before_ms))

    def purge(self, retention_s: int) -> int:
        """Remove sessions closed longer ago than `retention_s` seconds, with their ledger rows; return how many.

        An opening row an account carries their sum forward, so that the books still prove (semantics §10).
        """
        inputs.whole("retention_s", retention_s, 1, MAX_SECONDS)
        now = self._cases.now_ms()
        removed = 0
        for _ in range(MAX_SWEEP_BATCHES):
            batch = self._run(lambda: retention.purge(now - retention_s * 1000, now, SWEEP_BATCH))
            removed += batch
            if batch < SWEEP_BATCH:
                break
        return removed

    def count_delivery(self, key: str) -> int:
        """Count one more delivery of what may kill its worker; return how many there were."""
        return self._run(lambda: self._cases.count_delivery(key))

    def forget_delivery(self, key: str) -> None:
        """What was counted under `key` is dealt with."""
        self._run(lambda: self._cases.forget_delivery(key))

    def tell_drift(self, findings: Sequence[Mapping[str, object]], count: int) -> None:
        """Note `count` findings of a proof, the first few spelt out, to be told; nothing where webhooks are off."""
        if self.policy.webhook_url:
            self._run(lambda: self._cases.tell_drift(findings, count))

    def claim_webhooks(self, limit: int) -> list[Webhook]:
        """Take up to `limit` due events for sending. One that is never closed is due again after its pause."""
        inputs.batch("limit", limit)
        return self._run(lambda: self._cases.claim_webhooks(limit))

    def close_webhook(self, webhook: Webhook, error: str | None) -> str:
        """Say how the sending of a claimed event went (None: it was taken); return its state now."""
        return self._run(lambda: self._cases.close_webhook(webhook, error))

    def webhooks(self, state: str | None = None, limit: int = 100) -> list[Webhook]:
        """Events, oldest first; `state` is `pending`, `delivered` or `failed`; unset: all."""
        return self._run(lambda: webhooks.find(state, limit))

    def retry_webhooks(self, ids: Sequence[int]) -> list[int]:
        """Try failed events again from now on, with all their attempts; return the ids of those that were failed."""
        return self._run(lambda: self._cases.retry_webhooks(ids))

    def purge_webhooks(self, before_ms: int) -> int:
        """Remove events that were delivered or given up before then (Unix milliseconds); return how many."""
        return self._run(lambda: webhooks.purge(before_ms))

    def reconcile(self, since_ms: int | None = None, user_id: int | None = None) -> list[Drift]:
        """Prove the books; return what does not add up, nothing when all does (semantics §10).

        `since_ms`: only what has moved since then (Unix milliseconds); `user_id`: only that user's.
        """
        return list(self.drifts(since_ms, user_id))

    def drifts(self, since_ms: int | None = None, user_id: int | None = None) -> Iterator[Drift]:
        """As `reconcile`, one by one: memory is bounded whatever the tables' size.

        A proof of everything is remembered once it has been read to its end: the next `overview` has it.
        """
        began, found, quota = time.monotonic(), 0, 0
        try:
            for drift in drifts(self._engine, since_ms, user_id):
                found, quota = found + 1, quota + abs(drift.difference)
                yield drift
        except OperationalError as error:
            raise BillingUnavailable(f"the database can't be read: {error.orig}") from error
        if since_ms is None and user_id is None:
            took_ms = round((time.monotonic() - began) * 1000)
            self._run(lambda: remember(self._cases.now_ms(), took_ms, found, quota))

    def overview(self) -> Overview:
        """How things stand now, read once through the indexes of what is open. Raises BillingUnavailable at once."""
        try:
            with self._engine.connect() as connection:
                return read(connection, self._cases.now_ms())
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", error)).strip().split("\n")[0]
            raise BillingUnavailable(f"the database can't be read: {cause}") from error
