"""Everything that this package raises (semantics §11).

BillingError
├── InvalidRequest               400  invalid_request                  the input is wrong; nothing was sent
├── IdempotencyConflict          409  idempotency_conflict             a known request id with other values
│   └── ReferenceConflict                                              a known top-up with other values
├── InsufficientUserQuota        403  insufficient_user_quota          no funding source can pay
├── PreConsumeTokenQuotaFailed   403  pre_consume_token_quota_failed   the API key can't
├── QueryDataError               500  query_data_error                 a row that must be there is missing
├── UpdateDataError              500  update_data_error                the database refused a change
│   └── ColumnOverflow                                                 or would: its column can't hold the amount
├── UnknownSession               404  unknown_session                  reserve or get of an id never pre-consumed
└── BillingUnavailable           503  billing_unavailable              try again: nothing is known to have moved
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from relay_billing.domain.money import usd


class BillingError(Exception):
    """Base of all errors: `code`, `status_code` (HTTP), and what a relay should do about it (semantics §11)."""

    code: ClassVar[str] = "billing_error"
    status_code: ClassVar[int] = 500
    skip_retry: ClassVar[bool] = True
    """True: another channel would meet the same refusal, so the relay should not try one."""
    record_error_log: ClassVar[bool] = True
    """False: the caller's own fault, not worth a line in the relay's error log."""


class InvalidRequest(BillingError, ValueError):
    """The value of `field` can't be used; raised before any statement is sent (semantics §3)."""

    code = "invalid_request"
    status_code = 400
    record_error_log = False

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class IdempotencyConflict(BillingError):
    """The request id is known with other values; use a new id for another request (semantics §3.1)."""

    code = "idempotency_conflict"
    status_code = 409
    record_error_log = False

    def __init__(self, request_id: str, field: str, known: object, given: object) -> None:
        self.request_id = request_id
        self.field = field
        super().__init__(
            f"request {request_id!r} was pre-consumed with {field} {known!r}, now it comes with {given!r}; "
            "use a new request id for another request"
        )


class ReferenceConflict(IdempotencyConflict):
    """The reference of a top-up is known with another user or amount (semantics §10)."""

    def __init__(self, reference: str, field: str, known: object, given: object) -> None:
        BillingError.__init__(
            self,
            f"reference {reference!r} is of a top-up with {field} {known!r}, now it comes with {given!r}; "
            "use a new reference for another top-up",
        )
        self.request_id = reference
        self.field = field


class InsufficientUserQuota(BillingError):
    """The user's funding can't cover the hold (semantics §3). `remaining` and `needed` are quota.

    `remaining` None: the subscription is unlimited, and began a new period since the hold that was to be raised.
    """

    code = "insufficient_user_quota"
    status_code = 403
    record_error_log = False

    def __init__(
        self, user_id: int, source: str, remaining: int | None, needed: int, why: str = "", *, final: bool = False
    ) -> None:
        self.user_id = user_id
        self.final = final
        """Whether no other source may pay instead, whatever the preference (semantics §12)."""
        self.source = source
        self.remaining = remaining
        self.needed = needed
        left = "without limit" if remaining is None else f"{usd(remaining)} ({remaining})"
        super().__init__(
            f"user {user_id} has not enough quota: {why or source + ' is short'}, "
            f"remaining {left}, needed {usd(needed)} ({needed})"
        )


class PreConsumeTokenQuotaFailed(BillingError):
    """The API key is missing, another user's, or short (semantics §3.5). `remaining` and `needed` are quota."""

    code = "pre_consume_token_quota_failed"
    status_code = 403
    record_error_log = False

    def __init__(self, token_id: int | None, remaining: int, needed: int, why: str) -> None:
        self.token_id = token_id
        self.remaining = remaining
        self.needed = needed
        super().__init__(
            f"token {token_id} can't be used: {why}, "
            f"remaining {usd(remaining)} ({remaining}), needed {usd(needed)} ({needed})"
        )


class QueryDataError(BillingError):
    """A row that must exist does not, the user's for one (semantics §3.3). `remaining` None: no amount is concerned."""

    code = "query_data_error"

    def __init__(self, what: str, remaining: int | None = 0, needed: int = 0) -> None:
        if remaining is None:
            super().__init__(what)
            return
        super().__init__(f"{what}; remaining {usd(remaining)} ({remaining}), needed {usd(needed)} ({needed})")


class UpdateDataError(BillingError):
    """The database refused a statement, and trying again would not help (semantics §11)."""

    code = "update_data_error"


class ColumnOverflow(UpdateDataError):
    """A column can't hold the amount that the change would leave in it (semantics §12)."""

    def __init__(self, column: str, row_id: int, amount: int, limit: int) -> None:
        super().__init__(f"{column} of row {row_id} would become {amount}, its column holds at most {limit}")


class UnknownSession(BillingError):
    """No session has this request id: it was never pre-consumed, or was refused (semantics §4)."""

    code = "unknown_session"
    status_code = 404

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        super().__init__(f"no session has request id {request_id!r}: it was never pre-consumed, or was refused")


class BillingUnavailable(BillingError):
    """The database can't be reached; make the same call again, with the same ids (semantics §9)."""

    code = "billing_unavailable"
    status_code = 503
    skip_retry = False

    def __init__(self, problem: str, jobs: tuple[object, ...] = ()) -> None:
        self.jobs = jobs
        """The settles and refunds that are not safe yet: hand them in again."""
        super().__init__(problem)


@contextmanager
def telling_unsafe(job: object) -> Iterator[None]:
    """A BillingUnavailable that leaves the block carries `job`, to hand in again (semantics §9)."""
    try:
        yield
    except BillingUnavailable as error:
        raise (error if error.jobs else not_safe(job, error)) from error.__cause__


def not_safe(job: object, error: BillingUnavailable) -> BillingUnavailable:
    """The error of a settle or refund that could not be made safe; carries the job to hand in again (semantics §9)."""
    unsafe = BillingUnavailable(f"{job} is not safe yet, hand it in again: {error}", (job,))
    unsafe.__cause__ = error
    return unsafe
