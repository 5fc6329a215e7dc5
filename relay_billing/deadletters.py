"""Jobs that could not be applied: what is kept of them, with the reason and the money at stake."""

from relay_billing.domain.jobs import Answer
from relay_billing.store.steps import letter, raw_letter

UNKNOWN_SESSION = "unknown_session"
INVALID_MESSAGE = "invalid_message"
ERROR = "error"

Letter = dict[str, object]


def of_unknown(answer: Answer) -> Letter:
    """The letter of a job whose session never came (semantics §5)."""
    return letter(answer.job, UNKNOWN_SESSION, answer.detail, answer.user_id, answer.at_stake)


def of_message(task: str, body: object, reason: str, detail: str) -> Letter:
    """The letter of what is no valid job, or met an error that no retry mends: kept whole."""
    request_id = body.get("request_id") if isinstance(body, dict) else None
    known = (
        request_id if isinstance(request_id, str) and 0 < len(request_id) <= 64 and "\x00" not in request_id else None
    )
    return raw_letter(task, body, reason, detail, known)
