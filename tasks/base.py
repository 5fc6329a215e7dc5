"""One task is one transaction of the ledger. This sorts what comes of it: metric, log line, dead letter, retry."""

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
from celery import Task
from celery.exceptions import Reject

from config.settings import Settings, load
from relay_billing import deadletters
from relay_billing.domain import inputs
from relay_billing.domain.errors import BillingUnavailable, InvalidRequest
from relay_billing.domain.jobs import Answer, Job, Outcome, check_message, parse, reason_of
from relay_billing.ledger import Ledger
from relay_billing.store.drivers import engine_of
from tasks import metrics

log = structlog.get_logger("tasks")
T = TypeVar("T")

OUTAGE_PATIENCE_S = 20.0
"""How long a task waits for the database before it gives its message back; well below the visibility time-out."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 3.0
BACKOFF_S = (1, 2, 4, 8, 16, 32)
"""Seconds before each try again of a job whose session is not there; all below the visibility time-out."""


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
            self._ledger = Ledger(engine_of(self._settings.database_url), self._settings.policy)
            self._pid = os.getpid()
        return self._ledger, self._settings


class LedgerTask(Task):
    """Base of all tasks: acknowledged late, given back when lost, never a result."""

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
                reason=letter["reason"],
                detail=letter["detail"],
                quota=letter["quota"],
            )

    def carry_out(self, args: Sequence[object], message: dict[str, object]) -> None:
        """Apply the jobs of one message. What is no valid job is buried, and its valid neighbours are applied."""
        try:
            if args:
                raise InvalidRequest("args", "must be empty: a message has the keyword `jobs` alone")
            inputs.no_unknown({key: value for key, value in message.items() if key != "jobs"}, self.name)
            items = check_message(message.get("jobs"))
        except InvalidRequest as error:
            whole = {"args": list(args), "kwargs": message}
            self.bury([deadletters.of_message(self.name, whole, deadletters.INVALID_MESSAGE, str(error))])
            return
        jobs: list[Job] = []
        invalid: list[deadletters.Letter] = []
        for item in items:
            try:
                jobs.append(parse(self.name, item))
            except InvalidRequest as error:
                letter = deadletters.of_message(self.name, item, deadletters.INVALID_MESSAGE, str(error))
                invalid.append(letter)
        self.bury(invalid)
        if jobs:
            self._apply(jobs)

    def _apply(self, jobs: Sequence[Job]) -> None:
        try:
            answers = self.patiently(lambda: self.ledger.judge(jobs))
        except Reject:
            raise
        except Exception as error:
            log.exception("jobs failed", task=self.name, jobs=len(jobs))
            detail = f"{type(error).__name__}: {error}"
            self.bury([deadletters.of_message(self.name, job.wire(), deadletters.ERROR, detail) for job in jobs])
            return
        for answer in answers:
            self._count(answer)
        self._again([answer for answer in answers if answer.outcome is Outcome.UNKNOWN_SESSION])

    def _count(self, answer: Answer) -> None:
        outcome = answer.outcome
        metrics.JOBS.labels(self.name, outcome.value).inc()
        told = log.debug
        if answer.differs:
            metrics.JOBS.labels(self.name, Outcome.CONFLICT.value).inc()
            told = log.warning
        if outcome in (Outcome.CONFLICT, Outcome.PARKED):
            # The ledger has buried it in the transaction that judged it.
            metrics.DEAD_LETTERS.labels(reason_of(answer)).inc()
            told = log.warning
        told(
            "job",
            task=self.name,
            request_id=answer.job.request_id,
            user_id=answer.user_id,
            outcome=outcome.value,
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
        raise self.retry(kwargs={"jobs": jobs}, countdown=BACKOFF_S[tried], max_retries=None)
