"""Joins: a use case is load, decide, write in one transaction, for one item or five hundred. Nothing else commits."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from relay_billing import deadletters
from relay_billing.deadletters import DeadLetter, Filter, Resolution
from relay_billing.domain import holds, inputs, settlement
from relay_billing.domain.changes import Book, Changes, SubscriptionTurn
from relay_billing.domain.errors import BillingError, BillingUnavailable, InvalidRequest, UnknownSession
from relay_billing.domain.funding import FUNDING, FundingSource, turn_of
from relay_billing.domain.jobs import Answer, Job, Outcome, RefundJob, SettleJob
from relay_billing.domain.policy import MAX_SECONDS, Policy
from relay_billing.domain.sessions import BillingSession, Intent, PreConsume
from relay_billing.reconcile import Drift, drifts
from relay_billing.store import retention, steps
from relay_billing.store.commands import Steps
from relay_billing.store.dialects import Dialect
from relay_billing.store.drivers import at_once, dialect_of, transact
from relay_billing.store.letters import count_delivery, dead_letters, deliveries_of, forget_delivery

T = TypeVar("T")
Clock = Callable[[], datetime]

SWEEP_BATCH = 500
MAX_SWEEP_BATCHES = 2_000
"""Batches of one sweep: a million sessions. What is left waits for the next one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Usual:
    """A hold in one statement, and the session that it opens."""

    statement: tuple[str, dict[str, object]]
    opens: BillingSession

    def session(self, wallet: int) -> BillingSession:
        """The session, now that the wallet before the hold is known."""
        return replace(self.opens, user_quota=wallet)


@dataclass(frozen=True, slots=True)
class UseCases:
    """Every use case as steps of one transaction; `Ledger` runs them, and the async client does."""

    policy: Policy
    clock: Clock
    funding: tuple[FundingSource, ...]
    dialect: Dialect

    def now_ms(self) -> int:
        """Unix milliseconds by the ledger's clock."""
        return (self.clock() - _EPOCH) // timedelta(milliseconds=1)

    def _book(self) -> Book:
        return Book(self.policy, self.now_ms())

    def usual(self, requests: Sequence[PreConsume]) -> Usual | None:
        """How a lone request is held in one round trip where all is as usual; None: it is not."""
        if len(requests) != 1 or self.dialect.hold_at_once is None:
            return None
        try:
            requests[0].check()
        except InvalidRequest:
            # The general path has the answer to it.
            return None
        now = self.now_ms()
        assumed = holds.assume(self.policy, now, requests[0], self.funding)
        if assumed is None:
            return None
        return Usual((self.dialect.hold_at_once, steps.at_once(assumed, now // 1000)), assumed.session)

    def pre_consume(self, requests: Sequence[PreConsume]) -> Steps[list[BillingSession | BillingError]]:
        """Hold for each request in turn; a refused one leaves its neighbours alone."""
        book = self._book()
        answers: dict[int, BillingSession | BillingError] = {}
        for index, request in enumerate(requests):
            try:
                request.check()
            except InvalidRequest as error:
                answers[index] = error
        valid = [request for index, request in enumerate(requests) if index not in answers]
        if valid:
            yield from steps.load_sessions(book, {each.request_id for each in valid}, lock=False)
            keys = {each.token_id for each in valid if each.token_id is not None}
            yield from steps.load_accounts(book, {each.user_id for each in valid}, keys)
        for index, request in enumerate(requests):
            if index not in answers:
                answers[index] = self._hold(book, request)
        yield from steps.write(book, self.dialect)
        return [answers[index] for index in range(len(requests))]

    def _hold(self, book: Book, request: PreConsume) -> BillingSession | BillingError:
        try:
            changes = holds.pre_consume(book, request, self.funding)
        except BillingError as error:
            return error
        if request.request_id not in book.sessions:
            book.post(changes)
        return book.sessions[request.request_id]

    def reserve(self, request_id: str, target_quota: int) -> Steps[BillingSession]:
        """Raise one hold."""
        book = self._book()
        yield from steps.load_for_jobs(book, {request_id})
        changes = holds.reserve(book, request_id, target_quota, self.funding)
        if changes.movements:
            book.post(changes)
        yield from steps.write(book, self.dialect)
        return book.sessions[request_id]

    def apply(self, jobs: Sequence[Job]) -> Steps[list[Answer]]:
        """Judge each job in turn."""
        book = self._book()
        yield from steps.load_for_jobs(book, {job.request_id for job in jobs})
        answers = [settlement.apply(book, job, self.funding) for job in jobs]
        yield from steps.write(book, self.dialect)
        return answers

    def intend(self, jobs: Sequence[Job]) -> Steps[None]:
        """Write what the relay wants to the session rows: from then on it is safe (semantics §9)."""
        now = self.now_ms()
        # The first intent wins, in one batch too.
        first = {job.request_id: job for job in reversed(jobs)}
        rows = [
            {
                "of": job.request_id,
                "to": (Intent.SETTLE if isinstance(job, SettleJob) else Intent.REFUND).value,
                "quota_": job.actual_quota if isinstance(job, SettleJob) else None,
                "reason_": job.reason,
                "at": now,
            }
            for _, job in sorted(first.items())
        ]
        yield steps.write_intents(self.dialect, rows)

    def get(self, request_id: str) -> Steps[BillingSession]:
        """Read one session."""
        book = self._book()
        yield from steps.load_sessions(book, {inputs.request_id(request_id)}, lock=False)
        if request_id not in book.sessions:
            raise UnknownSession(request_id)
        return book.sessions[request_id]

    def expire(self) -> Steps[tuple[int, int]]:
        """Close one batch of holds that nobody closed; return how many were looked at, and how many closed."""
        book = self._book()
        (found,) = yield [steps.expired_ids(book.now_ms, SWEEP_BATCH)]
        ids = sorted(row["request_id"] for row in found.rows)
        yield from steps.load_for_jobs(book, ids)
        closed = sum(settlement.expire(book, request_id, self.funding) for request_id in ids)
        yield from steps.write(book, self.dialect)
        return len(ids), closed

    def sweep_intents(self) -> Steps[list[Answer]]:
        """Apply one batch of intents whose message never came."""
        book = self._book()
        before = book.now_ms - self.policy.intent_grace * 1000
        (found,) = yield [steps.waiting_ids(before, SWEEP_BATCH)]
        ids = sorted(row["request_id"] for row in found.rows)
        yield from steps.load_for_jobs(book, ids)
        intended = [settlement.intended_job(book.sessions[each]) for each in ids if each in book.sessions]
        answers = [settlement.apply(book, job, self.funding) for job in intended if job is not None]
        yield from steps.write(book, self.dialect)
        return answers

    def turn(self, after_id: int) -> Steps[tuple[int | None, int]]:
        """Move one batch of calendars; return the last id looked at (None: that was all), and how many moved."""
        book = self._book()
        yield from steps.load_due_subscriptions(book, after_id, SWEEP_BATCH)
        looked_at = sorted(book.subscriptions)
        for subscription in list(book.subscriptions.values()):
            if not subscription.active(book.now):
                ended = SubscriptionTurn(
                    subscription.id, subscription.last_reset_time, subscription.next_reset_time, "expired"
                )
                book.post(Changes(turn=ended))
                continue
            turn, forgotten = turn_of(book, subscription)
            if turn is not None and forgotten:
                book.post(Changes(movements=forgotten, turn=turn))
        moved = len(book.turns)
        yield from steps.write(book, self.dialect)
        return (looked_at[-1] if len(looked_at) == SWEEP_BATCH else None), moved

    def bury(self, letters: Sequence[deadletters.Letter]) -> Steps[None]:
        """Keep dead letters that no transition wrote: unknown sessions and messages that are no jobs."""
        yield [dead_letters(self.dialect, letters, self.now_ms())]

    def replay(self, letter_id: int) -> Steps[Resolution]:
        """Judge a dead letter's job afresh."""
        return deadletters.replay(self._book(), self.dialect, self.funding, letter_id)

    def write_off(self, letter_id: int, reason: str) -> Steps[Resolution]:
        """Give up what a dead letter has at stake."""
        return deadletters.write_off(self._book(), self.dialect, self.funding, letter_id, reason)

    def count_delivery(self, key: str) -> Steps[int]:
        """Count one more delivery of a job or message; return how many there were."""
        yield [count_delivery(self.dialect, key, self.now_ms())]
        (found,) = yield [deliveries_of(key)]
        return int(found.rows[0]["deliveries"])

    def forget_delivery(self, key: str) -> Steps[None]:
        """It is dealt with."""
        yield [forget_delivery(key)]


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
        usual = self._cases.usual(requests)
        if usual is not None:
            wallet = at_once(self._engine, *usual.statement)
            if wallet is not None:
                return [usual.session(wallet)]
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
        closed = 0
        for _ in range(MAX_SWEEP_BATCHES):
            seen, now_closed = self._run(self._cases.expire)
            closed += now_closed
            if seen < SWEEP_BATCH:
                break
        return closed

    def apply_intents(self) -> int:
        """Apply recorded intents whose message did not come in `intent_grace`; return how many (semantics §9)."""
        return self.sweep_intents().total()

    def sweep_intents(self) -> Counter[Outcome]:
        """As `apply_intents`, by outcome."""
        outcomes: Counter[Outcome] = Counter()
        for _ in range(MAX_SWEEP_BATCHES):
            answers = self._run(self._cases.sweep_intents)
            outcomes.update(answer.outcome for answer in answers)
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

    def reconcile(self, since_ms: int | None = None, user_id: int | None = None) -> list[Drift]:
        """Prove the books; return what does not add up, nothing when all does (semantics §10).

        `since_ms`: only what has moved since then (Unix milliseconds); `user_id`: only that user's.
        """
        return list(self.drifts(since_ms, user_id))

    def drifts(self, since_ms: int | None = None, user_id: int | None = None) -> Iterator[Drift]:
        """As `reconcile`, one by one: memory is bounded whatever the tables' size."""
        try:
            yield from drifts(self._engine, since_ms, user_id)
        except OperationalError as error:
            raise BillingUnavailable(f"the database can't be read: {error.orig}") from error
