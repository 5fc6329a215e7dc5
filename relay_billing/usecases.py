"""Every use case as the steps of one transaction: load, decide, write. The ledger and the async client run them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from relay_billing import deadletters, topups, webhooks
from relay_billing.deadletters import Resolution
from relay_billing.domain import holds, inputs, settlement
from relay_billing.domain.changes import Book, Changes, SubscriptionTurn
from relay_billing.domain.errors import BillingError, InvalidRequest, UnknownSession
from relay_billing.domain.events import drift_event
from relay_billing.domain.funding import FundingSource, turn_of
from relay_billing.domain.jobs import Answer, Job, SettleJob
from relay_billing.domain.policy import Policy
from relay_billing.domain.sessions import BillingSession, Intent, PreConsume
from relay_billing.domain.topups import ToppedUp, TopUp
from relay_billing.store import steps
from relay_billing.store.commands import Steps
from relay_billing.store.dialects import AtOnce, Dialect
from relay_billing.store.letters import count_delivery, dead_letters, deliveries_of, forget_delivery
from relay_billing.store.notices import letters_noted, noted_once
from relay_billing.webhooks import Webhook

Clock = Callable[[], datetime]

SWEEP_BATCH = 500
MAX_SWEEP_BATCHES = 2_000
"""Batches of one sweep: a million sessions. What is left waits for the next one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Expired:
    """Holds that nobody closed in time, and are closed now (semantics §8)."""

    holds: int
    quota: int
    """Quota that they held: given back, or kept where `hold_expiry` says so."""


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

    def at_once(self, requests: Sequence[PreConsume]) -> AtOnce | None:
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
        return None if assumed is None else self.dialect.hold_at_once(assumed, now // 1000)

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
            asked, users = {each.request_id for each in valid}, {each.user_id for each in valid}
            keys = {each.token_id for each in valid if each.token_id is not None}
            yield from steps.load_for_holds(book, asked, users, keys)
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
        yield from steps.load_sessions(book, {inputs.request_id(request_id)})
        if request_id not in book.sessions:
            raise UnknownSession(request_id)
        return book.sessions[request_id]

    def expire(self) -> Steps[tuple[int, Expired]]:
        """Close one batch of holds that nobody closed; return how many were looked at, and what was closed."""
        book = self._book()
        (found,) = yield [steps.expired_ids(book.now_ms, SWEEP_BATCH)]
        ids = sorted(row["request_id"] for row in found.rows)
        yield from steps.load_for_jobs(book, ids)
        closed = [each for each in ids if settlement.expire(book, each, self.funding)]
        quota = sum(book.sessions[each].pre_consumed_quota for each in closed)
        yield from steps.write(book, self.dialect)
        return len(ids), Expired(len(closed), quota)

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
        now = self.now_ms()
        told = [letters_noted(letters, now)] if self.policy.webhook_url and letters else []
        yield [*told, dead_letters(self.dialect, letters, now)]

    def tell_drift(self, findings: Sequence[Mapping[str, object]], count: int) -> Steps[None]:
        """Note what a proof found; the same findings are noted once."""
        yield [noted_once(self.dialect, drift_event(findings, count, self.now_ms()))]

    def claim_webhooks(self, limit: int) -> Steps[list[Webhook]]:
        """Take due events for sending, each once for as long as its next pause."""
        return webhooks.claim(self.now_ms(), limit)

    def close_webhook(self, webhook: Webhook, error: str | None) -> Steps[str]:
        """Say how the sending of a claimed event went; None: it was taken."""
        return webhooks.close(webhook, error, self.now_ms())

    def retry_webhooks(self, ids: Sequence[int]) -> Steps[list[int]]:
        """Try failed events again from now on."""
        return webhooks.retry(ids, self.now_ms())

    def replay(self, letter_id: int) -> Steps[Resolution]:
        """Judge a dead letter's job afresh."""
        return deadletters.replay(self._book(), self.dialect, self.funding, letter_id)

    def write_off(self, letter_id: int, reason: str) -> Steps[Resolution]:
        """Give up what a dead letter has at stake."""
        return deadletters.write_off(self._book(), self.dialect, self.funding, letter_id, reason)

    def top_up(self, asked: TopUp) -> Steps[ToppedUp]:
        """Put money into a wallet."""
        return topups.top_up(self._book(), self.dialect, asked)

    def count_delivery(self, key: str) -> Steps[int]:
        """Count one more delivery of a job or message; return how many there were."""
        yield [count_delivery(self.dialect, key, self.now_ms())]
        (found,) = yield [deliveries_of(key)]
        return int(found.rows[0]["deliveries"])

    def forget_delivery(self, key: str) -> Steps[None]:
        """It is dealt with."""
        yield [forget_delivery(key)]
