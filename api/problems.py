"""Errors as callers see them: problems of RFC 9457, with the codes of semantics §11 and those of the door itself.

Problem
├── 400  invalid_request          no JSON object, an unknown or repeated field, a wrong type
├── 401  unauthorized             no key, or one that does not open this door
├── 403  forbidden                the key lacks the scope
├── 404  not_found                no such path, user or token
├── 405  method_not_allowed
├── 408  request_timeout          its sender was too slow (`protocol`)
├── 413  body_too_large
├── 415  unsupported_media_type
├── 500  internal_error           a fault of ours; the log has it
└── 503  overloaded               too many requests in hand: nothing was done
"""

from http import HTTPStatus

from api.answers import Answer, Headers, problem
from relay_billing.domain.errors import BillingError

RETRY_AFTER: Headers = ((b"retry-after", b"1"),)
"""Seconds, with every 503: long enough for a database to change its server, short enough for a waiting user."""
CHALLENGE: Headers = ((b"www-authenticate", b"Bearer"),)


class Problem(Exception):
    """An answer that is no success; `field` names the input that can't be used, unset: none does."""

    def __init__(self, status: int, code: str, detail: str, *, field: str | None = None, headers: Headers = ()) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.field, self.headers = status, code, detail, field, headers

    @staticmethod
    def phrase(status: int) -> str:
        """A status in words: those of RFC 9110, which Python has from 3.13 on."""
        return "Content Too Large" if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else HTTPStatus(status).phrase

    @property
    def skip_retry(self) -> bool:
        """Whether another channel, or the same call again, would meet the same refusal."""
        return self.status not in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE)


def described(error: BillingError | Problem, request_id: str | None) -> dict[str, object]:
    """The members of a problem. `request_id`: the one that the call named; None: it named none."""
    status = error.status if isinstance(error, Problem) else error.status_code
    members: dict[str, object] = {
        "type": "about:blank",
        "title": Problem.phrase(status),
        "status": status,
        "code": error.code,
        "detail": str(error),
        "skip_retry": error.skip_retry,
    }
    if request_id is not None:
        members["request_id"] = request_id
    # What an error knows it has under its own name: the field of wrong input, the amounts of a lack of money.
    for name in ("field", "remaining", "needed"):
        known = getattr(error, name, None)
        if known is not None:
            members[name] = known
    return members


def answer_of(error: BillingError | Problem, request_id: str | None) -> Answer:
    """The answer that tells of an error."""
    members = described(error, request_id)
    status = int(str(members["status"]))
    headers = error.headers if isinstance(error, Problem) else ()
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers += RETRY_AFTER
    return problem(status, members, headers)
