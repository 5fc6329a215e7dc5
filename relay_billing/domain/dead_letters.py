"""Dead letters: jobs and messages that could not be applied, with the reason and the quota at stake (semantics §5).

One constructor for each cause. The same job refused again for the same reason has the same fingerprint: it is counted
on the letter that is there.
"""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum

from relay_billing.domain import checks
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.jobs import Job, SettleJob, task_of
from relay_billing.domain.outcomes import Answer, ParkReason

MAX_TASK = 64


class LetterReason(StrEnum):
    """Why a job became a dead letter, as the database stores it."""

    CONFLICT = "conflict"
    IMPLAUSIBLE_AMOUNT = ParkReason.IMPLAUSIBLE_AMOUNT.value
    SUBSCRIPTION_EXCEEDED = ParkReason.SUBSCRIPTION_EXCEEDED.value
    ACCOUNT_MISSING = ParkReason.ACCOUNT_MISSING.value
    COLUMN_OVERFLOW = ParkReason.COLUMN_OVERFLOW.value
    UNKNOWN_SESSION = "unknown_session"
    INVALID_MESSAGE = "invalid_message"
    """The message holds no valid job, or is of no task of ours."""
    POISON = "poison"
    """Every worker that ran it was lost."""
    ERROR = "error"
    """Judging it raised an unexpected error."""

    @classmethod
    def of(cls, answer: Answer) -> "LetterReason":
        """The reason of an answer that is a conflict or parked."""
        return cls.CONFLICT if answer.park_reason is None else cls(answer.park_reason.value)


@dataclass(frozen=True, slots=True)
class Letter:
    """One job that could not be applied, or one message that holds no valid job."""

    task: str
    request_id: str | None
    """None: the message names no valid one."""
    user_id: int | None
    """None: the user is not known."""
    reason: LetterReason
    detail: str
    job: str
    """The job as JSON; of an invalid message, the whole message."""
    quota: int
    """Quota at stake."""
    fingerprint: str
    """Equal for the same job refused for the same reason."""

    @classmethod
    def of_answer(cls, answer: Answer) -> "Letter":
        """The letter of a job that was judged a conflict, or parked."""
        return cls._of_job(answer.job, LetterReason.of(answer), answer.detail, answer.user_id, answer.at_stake)

    @classmethod
    def of_unknown(cls, answer: Answer) -> "Letter":
        """The letter of a job whose session never came."""
        return cls._of_job(answer.job, LetterReason.UNKNOWN_SESSION, answer.detail, answer.user_id, answer.at_stake)

    @classmethod
    def of_error(cls, job: Job, error: Exception, user_id: int | None) -> "Letter":
        """The letter of a job that could not be judged; `user_id` None: the user is not known."""
        return cls._of_job(job, LetterReason.ERROR, f"{type(error).__name__}: {error}", user_id, _stake_of(job))

    @classmethod
    def of_poison(cls, job: Job, deliveries: int, user_id: int | None) -> "Letter":
        """The letter of a job whose worker was lost at each of its `deliveries`."""
        return cls._of_job(job, LetterReason.POISON, f"its worker was lost {deliveries} times", user_id, _stake_of(job))

    @classmethod
    def of_message(cls, task: str, body: object, problem: str) -> "Letter":
        """The letter of a message that holds no valid job, kept whole. `problem`: what is wrong with it."""
        request_id = body.get("request_id") if isinstance(body, dict) else None
        try:
            known: str | None = checks.request_id(request_id)
        except InvalidRequest:
            known = None
        return cls._of(task, body, LetterReason.INVALID_MESSAGE, problem, known, None, 0)

    @classmethod
    def _of_job(cls, job: Job, reason: LetterReason, detail: str, user_id: int | None, quota: int) -> "Letter":
        return cls._of(task_of(job), job.wire(), reason, detail, job.request_id, user_id, quota)

    @classmethod
    def _of(
        cls,
        task: str,
        job: object,
        reason: LetterReason,
        detail: str,
        request_id: str | None,
        user_id: int | None,
        quota: int,
    ) -> "Letter":
        body = json.dumps(job, sort_keys=True, default=str)
        key = fingerprint(task, reason.value, body)
        return cls(_storable(task)[:MAX_TASK], request_id, user_id, reason, _storable(detail), body, quota, key)


def fingerprint(*parts: str) -> str:
    """SHA-256 of the parts in 64 hex digits, for a unique column."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _stake_of(job: Job) -> int:
    return job.actual_quota if isinstance(job, SettleJob) else 0


def _storable(words: str) -> str:
    """Escape what databases refuse and foreign messages may hold: NUL and half surrogate pairs."""
    return words.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
