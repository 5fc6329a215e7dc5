"""One task is one transaction of the ledger. This sorts what comes of it: metric, log line, dead letter, retry."""

import hashlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import structlog
from celery import Task
from celery.exceptions import Reject

from config.settings import Settings, load
from relay_billing import deadletters
from relay_billing.domain import inputs
from relay_billing.domain.errors import BillingError, BillingUnavailable, InvalidRequest
from relay_billing.domain.jobs import Answer, Job, Outcome, check_message, parse, summary
from relay_billing.ledger import Ledger
from relay_billing.publisher import POSTED_AT
from relay_billing.store.drivers import engine_of
from tasks import metrics

log = structlog.get_logger("tasks")
T = TypeVar("T")

OUTAGE_PATIENCE_S = 8.0
"""How long a task waits for the database before it gives its message back; below the visibility time-out."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 2.0
BACKOFF_S = (1, 2, 4, 8, 8, 8)
"""Seconds before each try again of a job whose session is not there; all below the visibility time-out."""
WHOLE_DELIVERIES = 2
"""Times a message that came back is tried whole. After that its jobs are tried one by one, to find the poison."""
MAX_TIME_MS = 2**53
"""What a message may say of its time: what JSON numbers carry exactly."""
MAX_DELIVERIES = 3
"""Times one job is tried by itself. One that has lost its worker that often is buried (semantics §9)."""


def _key(task: str, jobs: Sequence[Job]) -> str:
    return hashlib.sha256(json.dumps([task, *(job.wire() for job in jobs)]).encode()).hexdigest()[:60]


def _only(answers: Sequence[Answer]) -> dict[str, object]:
    """What a line about a message says of its session, where it has but one."""
    if len(answers) != 1:
        return {}
    return {"request_id": answers[0].job.request_id, "user_id": answers[0].user_id}


class Books:
    """The process's ledger: made at first use, so after the fork, and once."""

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._settings: Settings | None = None
        self._pid = 0

    def open(self) -> tuple[Ledger, Settings]:
        """The ledger and the settings it was made with."""
        if self._ledger is None or self._settings is None or self._pid != os.getpid():
            self._settings = load()
            engine = engine_of(self._settings.database_url)
            metrics.watch_pool(engine)
            self._ledger = Ledger(engine, self._settings.policy)
            self._pid = os.getpid()
        return self._ledger, self._settings


class LedgerTask(Task):
    """Base of all tasks: acknowledged late, given back when lost, never a result."""

    Request = "tasks.request:LedgerRequest"
    acks_late = True
    reject_on_worker_lost = True
    acks_on_failure_or_timeout = False
    ignore_result = True
    books = Books()

    @property
    def ledger(self) -> Ledger:
        """The process's ledger."""
        return self.books.open()[0]

    def patiently(self, call: Callable[[], T]) -> T:
        """Call the ledger and wait out an outage of the database; in a long one the message goes back."""
        deadline, pause = time.monotonic() + OUTAGE_PATIENCE_S, FIRST_PAUSE_S
        while True:
            try:
                return call()
            except BillingUnavailable as error:
                if time.monotonic() > deadline:
                    log.error("the database is away, the message goes back", task=self.name, error=str(error))
                    raise Reject(str(error), requeue=True) from error
                log.warning("the database is away", task=self.name, error=str(error))
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def bury(self, letters: Sequence[deadletters.Letter]) -> None:
        """Keep dead letters; only then may the message be acknowledged."""
        if not letters:
            return
        self.patiently(lambda: self.ledger.bury(letters))
        for letter in letters:
            metrics.DEAD_LETTERS.labels(letter["reason"]).inc()
            log.error(
                "dead letter",
                task=letter["task"],
                request_id=letter["request_id"],
                user_id=letter["user_id"],
                reason=letter["reason"],
                detail=letter["detail"],
                quota=letter["quota"],
            )

    def carry_out(self, args: Sequence[object], message: dict[str, object]) -> None:
        """Apply the jobs of one message. What is no valid job is buried, and its valid neighbours are applied.

        Never ends in an error: Celery would drop the message. It is applied, buried, or given back.
        """
        came_back = bool((self.request.delivery_info or {}).get("redelivered"))
        try:
            unknown = self.deal_with(self.name, args, message, came_back=came_back)
        except Reject:
            raise
        except Exception as error:
            log.exception("a message failed, it goes back", task=self.name)
            time.sleep(LONGEST_PAUSE_S)
            raise Reject(f"{type(error).__name__}: {error}", requeue=True) from error
        self._again(unknown)

    def deal_with(
        self, task: str, args: Sequence[object], message: Mapping[str, object], *, came_back: bool
    ) -> list[Answer]:
        """Apply or bury all that a message holds; return the answers of jobs whose session is not there."""
        try:
            if args:
                raise InvalidRequest("args", "must be empty: a message has the keyword `jobs` alone")
            inputs.no_unknown({key: value for key, value in message.items() if key != "jobs"}, task)
            items = check_message(message.get("jobs"))
        except InvalidRequest as error:
            whole = {"args": list(args), "kwargs": dict(message)}
            self.bury([deadletters.of_message(task, whole, deadletters.INVALID_MESSAGE, str(error))])
            return []
        jobs: list[Job] = []
        invalid: list[deadletters.Letter] = []
        for item in items:
            try:
                jobs.append(parse(task, item))
            except InvalidRequest as error:
                invalid.append(deadletters.of_message(task, item, deadletters.INVALID_MESSAGE, str(error)))
        self.bury(invalid)
        if not jobs:
            return []
        answers = self._cautiously(task, jobs) if came_back else self._judge(task, jobs)
        posted_at = self.posted_at
        for answer in answers:
            self.count(task, answer, posted_at)
        outcomes = Counter(answer.outcome.value for answer in answers)
        log.info("message judged", task=task, jobs=len(jobs), outcomes=dict(outcomes), **_only(answers))
        return [answer for answer in answers if answer.outcome is Outcome.UNKNOWN_SESSION]

    def _judge(self, task: str, jobs: Sequence[Job]) -> list[Answer]:
        """Judge jobs in one transaction. A batch that fails is judged job by job: one can't hold up the rest."""
        try:
            return self.patiently(lambda: self.ledger.judge(jobs))
        except Reject:
            raise
        except Exception as error:
            if len(jobs) > 1:
                return [answer for job in jobs for answer in self._judge(task, [job])]
            user_id = self._user_of(jobs[0])
            log.exception("a job failed", task=task, request_id=jobs[0].request_id, user_id=user_id)
            self.bury([deadletters.of_job(jobs[0], deadletters.ERROR, f"{type(error).__name__}: {error}", user_id)])
            return []

    def _user_of(self, job: Job) -> int | None:
        """Whose session it is; None where the books can't say, and then the letter goes without."""
        try:
            return self.ledger.get(job.request_id).user_id
        except BillingError:
            return None

    def _cautiously(self, task: str, jobs: Sequence[Job]) -> list[Answer]:
        """Judge a message that came back: something in it may have killed its worker, so deliveries are counted."""
        whole = _key(task, jobs)
        if self.patiently(lambda: self.ledger.count_delivery(whole)) <= WHOLE_DELIVERIES:
            answers = self._judge(task, jobs)
        else:
            answers = [answer for job in jobs for answer in self._alone(task, job)]
        self.patiently(lambda: self.ledger.forget_delivery(whole))
        return answers

    def _alone(self, task: str, job: Job) -> list[Answer]:
        key = _key(task, [job]) + ".1"
        deliveries = self.patiently(lambda: self.ledger.count_delivery(key))
        if deliveries > MAX_DELIVERIES:
            detail = f"its worker was lost {MAX_DELIVERIES} times"
            self.bury([deadletters.of_job(job, deadletters.POISON, detail, self._user_of(job))])
            answers = []
        else:
            answers = self._judge(task, [job])
        self.patiently(lambda: self.ledger.forget_delivery(key))
        return answers

    @property
    def posted_at(self) -> int | None:
        """When the message in hand was posted, in Unix milliseconds; None: it does not say."""
        told = (self.request.headers or {}).get(POSTED_AT)
        return told if isinstance(told, int) and 0 < told <= MAX_TIME_MS else None

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

    def _again(self, unknown: Sequence[Answer]) -> None:
        """Post jobs without a session once more, later; bury them after the last try."""
        if not unknown:
            return
        tried = self.request.retries
        if tried >= self.books.open()[1].unknown_session_retries:
            self.bury([deadletters.of_unknown(answer) for answer in unknown])
            return
        jobs = [answer.job.wire() for answer in unknown]
        log.info("no session yet, trying again", task=self.name, jobs=len(jobs), tried=tried)
        raise self.retry(kwargs={"jobs": jobs}, kwargsrepr=summary(jobs), countdown=BACKOFF_S[tried], max_retries=None)
