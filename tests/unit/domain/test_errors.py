"""Every error says what a relay should do about it."""

import pytest

from relay_billing.domain import errors

TABLE = [
    (errors.InvalidRequest("quota", "is wrong"), "invalid_request", 400, True, False),
    (errors.IdempotencyConflict("r1", "quota", 1, 2), "idempotency_conflict", 409, True, False),
    (errors.InsufficientUserQuota(7, "wallet", 250_000, 500_000), "insufficient_user_quota", 403, True, False),
    (errors.PreConsumeTokenQuotaFailed(9, 0, 500_000, "short"), "pre_consume_token_quota_failed", 403, True, False),
    (errors.QueryDataError("user 7 does not exist"), "query_data_error", 500, True, True),
    (errors.UpdateDataError("refused"), "update_data_error", 500, True, True),
    (errors.UnknownSession("r1"), "unknown_session", 404, True, True),
    (errors.BillingUnavailable("away"), "billing_unavailable", 503, False, True),
]


@pytest.mark.parametrize(("error", "code", "status", "skip_retry", "logged"), TABLE, ids=lambda value: str(value)[:30])
def test_an_error_carries_its_code_its_status_and_what_to_do(
    error: errors.BillingError, code: str, status: int, skip_retry: bool, logged: bool
) -> None:
    assert (error.code, error.status_code) == (code, status)
    assert (error.skip_retry, error.record_error_log) == (skip_retry, logged)


def test_the_table_names_every_error_there_is() -> None:
    assert {type(row[0]) for row in TABLE} == set(errors.BillingError.__subclasses__())


def test_a_refusal_for_lack_of_money_names_who_what_there_is_and_what_is_needed() -> None:
    words = str(errors.InsufficientUserQuota(7, "wallet", 250_000, 500_000))
    assert all(part in words for part in ("user 7", "$0.500000", "250000", "$1.000000", "500000"))
    words = str(errors.PreConsumeTokenQuotaFailed(9, 0, 500_000, "it is short of quota"))
    assert all(part in words for part in ("token 9", "short", "$0.000000", "$1.000000"))
