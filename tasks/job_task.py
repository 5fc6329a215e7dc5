"""Deals with a message of jobs: each is applied, kept as a dead letter, or tried again. Settle, refund, sweep."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog
from celery.exceptions import Reject, Retry

from relay_billing.broker.publisher import POSTED_AT
from relay_billing.domain import checks
from relay_billing.domain.dead_letters import Letter
from relay_billing.domain.errors import BillingError, InvalidRequest
from relay_billing.domain.jobs import QUEUE, Job
from relay_billing.domain.messages import check_message, parse, summary
from relay_billing.domain.outcomes import Answer, Outcome
from relay_billing.flows import dead_letters, deliveries, settlements, strays
from tasks import metrics
from tasks.base import LONGEST_PAUSE_S, LedgerTask

log = structlog.get_logger("tasks")

BACKOFF_S = (1, 2, 4, 8, 8, 8)
"""Seconds before each retry of a job whose session is not there yet; all below the visibility time-out."""
WHOLE_DELIVERIES = 2
"""Times that a redelivered message is tried whole. Then its jobs are tried one by one, to find the poison."""
MAX_TIME_MS = 2**53
"""The latest `posted_at` that is believed, in Unix milliseconds: what JSON numbers carry exactly."""
MAX_DELIVERIES = 3
"""Times that one job is tried by itself. If it loses its worker each time, it becomes a dead letter (semantics §9)."""


def _key(task: str, jobs: Sequence[Job]) -> str:
    return hashlib.sha256(json.dumps([task, *(job.wire() for job in jobs)]).encode()).hexdigest()[:60]


def _only(answers: Sequence[Answer]) -> dict[str, object]:
    """The fields of a message's log line that name its session, if it has just one."""
    if len(answers) != 1:
        return {}
    return {"request_id": answers[0].job.request_id, "user_id": answers[0].user_id}


class JobTask(LedgerTask):
    """Base of the tasks that judge jobs: counts and logs each outcome, keeps dead letters, tries strays again."""

    def keep_letters(self, found: Sequence[Letter]) -> None:
        """Keep dead letters in the database; only after that may the message be acknowledged."""
        if not found:
            return
        self.patiently(self.ledger.run, dead_letters.keep, found)
        for letter in found:
            metrics.DEAD_LETTERS.labels(letter.reason.value).inc()
            log.error(
                "dead letter",
                task=letter.task,
                request_id=letter.request_id,
                user_id=letter.user_id,
                reason=letter.reason.value,
                detail=letter.detail,
                quota=letter.quota,
            )

    @property
    def came_back(self) -> bool:
        """Whether the message in hand was delivered before."""
        return bool((self.request.delivery_info or {}).get("redelivered"))

    @contextmanager
    def given_back_on_error(self) -> Iterator[None]:
        """An error that leaves the block gives the message back; Celery would drop it."""
        try:
            yield
        except (Reject, Retry):
            raise
        except Exception as error:
            log.exception("a message failed, it goes back", task=self.name)
            time.sleep(LONGEST_PAUSE_S)
            raise Reject(f"{type(error).__name__}: {error}", requeue=True) from error

    def deal_with(
        self, task: str, args: Sequence[object], message: Mapping[str, object], *, came_back: bool
    ) -> list[Answer]:
        """Apply a message's jobs or keep them as dead letters; return the answers of jobs without a session."""
        try:
            if args:
                raise InvalidRequest("args", "must be empty: a message has the keyword `jobs` alone")
            checks.no_unknown({key: value for key, value in message.items() if key != "jobs"}, task)
            items = check_message(message.get("jobs"))
        except InvalidRequest as error:
            whole = {"args": list(args), "kwargs": dict(message)}
            self.keep_letters([Letter.of_message(task, whole, str(error))])
            return []
        jobs: list[Job] = []
        invalid: list[Letter] = []
        for item in items:
            try:
                jobs.append(parse(task, item))
            except InvalidRequest as error:
                invalid.append(Letter.of_message(task, item, str(error)))
        self.keep_letters(invalid)
        if not jobs:
            return []
        answers = self._cautiously(task, jobs) if came_back else self._judge(task, jobs)
        unknown = [answer for answer in answers if answer.outcome is Outcome.UNKNOWN_SESSION]
        if self.request.retries:
            self._forget_strays(jobs, unknown)
        posted_at = self.posted_at
        for answer in answers:
            self.count(task, answer, posted_at)
        outcomes = Counter(answer.outcome.value for answer in answers)
        log.info("message judged", task=task, jobs=len(jobs), outcomes=dict(outcomes), **_only(answers))
        return unknown

    def _forget_strays(self, jobs: Sequence[Job], unknown: Sequence[Answer]) -> None:
        """Remove the strays of jobs that were tried again and are done with."""
        still = {answer.job for answer in unknown}
        ended = [job for job in jobs if job not in still]
        if ended:
            self.patiently(self.ledger.run, strays.forget, ended)

    def _judge(self, task: str, jobs: Sequence[Job]) -> list[Answer]:
        """Judge jobs in one transaction. If it fails, judge them one by one, so that one job can't hold up the rest."""
        try:
            return self.patiently(self.ledger.run, settlements.apply, jobs)
        except Reject:
            raise
        except Exception as error:
            if len(jobs) > 1:
                return [answer for job in jobs for answer in self._judge(task, [job])]
            user_id = self._user_of(jobs[0])
            log.exception("a job failed", task=task, request_id=jobs[0].request_id, user_id=user_id)
            self.keep_letters([Letter.of_error(jobs[0], error, user_id)])
            return []

    def _user_of(self, job: Job) -> int | None:
        """The session's user; None where it can't be read: then the letter names no user."""
        try:
            return self.ledger.get(job.request_id).user_id
        except BillingError:
            return None

    def _cautiously(self, task: str, jobs: Sequence[Job]) -> list[Answer]:
        """Judge a redelivered message. One of its jobs may have killed the worker, so its deliveries are counted."""
        whole = _key(task, jobs)
        if self.patiently(self.ledger.run, deliveries.count, whole) <= WHOLE_DELIVERIES:
            answers = self._judge(task, jobs)
        else:
            answers = [answer for job in jobs for answer in self._alone(task, job)]
        self.patiently(self.ledger.run, deliveries.forget, whole)
        return answers

    def _alone(self, task: str, job: Job) -> list[Answer]:
        key = _key(task, [job]) + ".1"
        if self.patiently(self.ledger.run, deliveries.count, key) > MAX_DELIVERIES:
            self.keep_letters([Letter.of_poison(job, MAX_DELIVERIES, self._user_of(job))])
            answers = []
        else:
            answers = self._judge(task, [job])
        self.patiently(self.ledger.run, deliveries.forget, key)
        return answers

    @property
    def posted_at(self) -> int | None:
        """When the message in hand was posted, in Unix milliseconds; None: its header is missing or invalid."""
        header = (self.request.headers or {}).get(POSTED_AT)
        return header if isinstance(header, int) and 0 < header <= MAX_TIME_MS else None

    def count(self, task: str, answer: Answer, posted_at: int | None) -> None:
        """Count and log what became of one job."""
        metrics.count_answer(task, answer, posted_at)
        trouble = answer.differs or answer.token_error or answer.outcome in (Outcome.CONFLICT, Outcome.PARKED)
        (log.warning if trouble else log.debug)(
            "job",
            task=task,
            request_id=answer.job.request_id,
            user_id=answer.user_id,
            outcome=answer.outcome.value,
            detail=answer.detail,
        )

    def try_again(self, unknown: Sequence[Answer]) -> None:
        """Post jobs without a session again, with a delay; after the last try keep them as dead letters.

        Strays are kept in the database first: the broker may refuse or lose the delayed message.
        """
        if not unknown:
            return
        tried = self.request.retries
        if tried >= self.settings.unknown_session_retries:
            self.keep_letters([Letter.of_unknown(answer) for answer in unknown])
            self._forget_strays([answer.job for answer in unknown], [])
            return
        self.patiently(self.ledger.run, strays.keep, [answer.job for answer in unknown])
        jobs = [answer.job.wire() for answer in unknown]
        log.info("no session yet, trying again", task=self.name, jobs=len(jobs), tried=tried)
        again = {"kwargs": {"jobs": jobs}, "kwargsrepr": summary(jobs), "queue": QUEUE}
        try:
            raise self.retry(**again, countdown=BACKOFF_S[tried], max_retries=None)
        except Reject as refused:
            # Celery would reject the message, which on Redis drops it. The sweep has the jobs.
            log.warning("the broker did not take a retry, the sweep has it", task=self.name, error=str(refused.reason))
