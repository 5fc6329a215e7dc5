"""Input is refused by the name of its field, before anything moves."""

import math

import pytest

from relay_billing import Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain import checks
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.messages import summary
from relay_billing.domain.money import MAX_QUOTA, usd

GOOD: dict[str, object] = {"request_id": "r1", "user_id": 1, "token_id": 1, "quota": 100}

WRONG = [
    ("request_id", ""),
    ("request_id", "x" * 65),
    ("request_id", 5),
    ("request_id", None),
    ("request_id", "nul\x00"),
    ("request_id", "half\ud800"),
    ("user_id", 0),
    ("user_id", -1),
    ("user_id", "1"),
    ("user_id", True),
    ("user_id", 2**63),
    ("token_id", 0),
    ("token_id", 1.0),
    ("token_id", None),
    ("quota", -1),
    ("quota", True),
    ("quota", 1.5),
    ("quota", math.nan),
    ("quota", "100"),
    ("quota", MAX_QUOTA + 1),
    ("quota", None),
    ("model_name", None),
    ("model_name", "m" * 256),
    ("model_name", "nul\x00"),
    ("preference", 7),
    ("playground", 1),
    ("playground", "yes"),
    ("force_pre_consume", None),
    ("hold_ttl", 0),
    ("hold_ttl", True),
    ("hold_ttl", 10**12),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_pre_consume_with_a_wrong_value_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        PreConsume(**{**GOOD, field: value}).check()  # type: ignore[arg-type]
    assert refused.value.field == field
    assert field in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"quota": 0},
        {"quota": MAX_QUOTA},
        {"request_id": "é" * 64},
        {"playground": True, "token_id": None},
        {"preference": None},
        {"preference": "no such word"},
        {"hold_ttl": 1},
    ],
)
def test_a_pre_consume_at_the_edge_of_what_is_allowed_is_accepted(values: dict[str, object]) -> None:
    PreConsume(**{**GOOD, **values}).check()  # type: ignore[arg-type]


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(InvalidRequest) as refused:
        checks.no_unknown({"currency": "EUR"}, "pre_consume")
    assert refused.value.field == "currency"


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: SettleJob("", 1), "request_id"),
        (lambda: SettleJob("r", -1), "actual_quota"),
        (lambda: SettleJob("r", True), "actual_quota"),
        (lambda: SettleJob("r", 1.0), "actual_quota"),  # type: ignore[arg-type]
        (lambda: SettleJob("r", MAX_QUOTA + 1), "actual_quota"),
        (lambda: SettleJob("r", 1, "x" * 65), "reason"),
        (lambda: RefundJob("r" * 65), "request_id"),
        (lambda: RefundJob("r", 5), "reason"),  # type: ignore[arg-type]
        (lambda: checks.batch("jobs", 0), "jobs"),
        (lambda: checks.batch("jobs", 501), "jobs"),
        (lambda: Policy(trust_quota=-1), "trust_quota"),
        (lambda: Policy(hold_ttl=0), "hold_ttl"),
        (lambda: Policy(hold_ttl=True), "hold_ttl"),
        (lambda: Policy(hold_expiry="keep"), "hold_expiry"),  # type: ignore[arg-type]
        (lambda: Policy(subscription_overflow=""), "subscription_overflow"),  # type: ignore[arg-type]
        (lambda: Policy(durability="hope"), "durability"),  # type: ignore[arg-type]
        (lambda: Policy(max_settle_quota=-1), "max_settle_quota"),
        (lambda: Policy(record_usage=1), "record_usage"),  # type: ignore[arg-type]
        (lambda: Policy(timezone="Mars/Olympus"), "timezone"),
        (lambda: Policy(publish_timeout=0), "publish_timeout"),
        (lambda: Policy(trust_max_inflight=-1), "trust_max_inflight"),
    ],
)
def test_a_job_or_a_policy_with_a_wrong_value_is_refused_by_its_field(make: object, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make()  # type: ignore[operator]
    assert refused.value.field == field


def test_a_policy_takes_its_words_as_text() -> None:
    policy = Policy(hold_expiry="charge", durability="broker", subscription_overflow="wallet")  # type: ignore[arg-type]
    assert (policy.hold_expiry, policy.durability, policy.subscription_overflow) == ("charge", "broker", "wallet")


def test_the_errors_of_a_ledger_call_name_the_unknown_keyword() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Ledger.pre_consume(object(), **GOOD, currency="EUR")  # type: ignore[arg-type, call-arg]
    assert refused.value.field == "currency"


@pytest.mark.parametrize(
    ("quota", "shown"),
    [
        (0, "$0.000000"),
        (1, "$0.000002"),
        (500_000, "$1.000000"),
        (-250_000, "-$0.500000"),
        (MAX_QUOTA, "$18014398509.481984"),
    ],
)
def test_quota_is_written_as_dollars_without_a_float(quota: int, shown: str) -> None:
    assert usd(quota) == shown


SHOWN: list[tuple[object, str]] = [
    ([SettleJob("r1", 60).wire()], "1 job, first r1, 60 quota"),
    ([SettleJob(f"r{number}", 5).wire() for number in range(500)], "500 jobs, first r0, 2500 quota"),
    ([RefundJob("r1").wire(), RefundJob("r2").wire()], "2 jobs, first r1"),
    ([{"request_id": "r1", "actual_quota": True, "key": "sk-secret"}], "1 job, first r1"),
    ([{"request_id": "x" * 65, "actual_quota": 7}], "1 job, 7 quota"),
    ([{"request_id": ["redis://:secret@host"]}, 5, "sk-secret"], "1 job"),
    ([], "no jobs"),
    (["sk-secret"], "no jobs"),
    (None, "no jobs"),
    ({"request_id": "r1"}, "no jobs"),
]


@pytest.mark.parametrize(("jobs", "shown"), SHOWN)
def test_monitors_are_shown_the_number_the_first_id_and_the_total_of_jobs(jobs: object, shown: str) -> None:
    assert summary(jobs) == shown
