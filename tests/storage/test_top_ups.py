"""Money comes in once for each reference, however many come together."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from relay_billing import BillingError, IdempotencyConflict, InvalidRequest, Ledger, Policy, QueryDataError, SettleJob
from relay_billing.domain.top_ups import MAX_WALLET, ToppedUp
from tests.fixtures.accounts import Clock, given, wallet

CALLERS = 16
DAY_S = 86_400


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    rich = {"id": 3, "quota": MAX_WALLET - 10}
    given(engine, user=[{"id": 1, "quota": -40}, {"id": 2, "quota": 0}, rich], token=[{"id": 1, "user_id": 1}])
    return Ledger(engine, Policy(trust_quota=0), Clock())


def test_a_reference_counts_once_and_is_answered_as_the_first_time(ledger: Ledger, engine: Engine) -> None:
    first = ledger.top_up(user_id=1, quota=100, reference="invoice-1", note="paid by card")
    assert (first.balance_after, first.replayed) == (60, False)
    assert ledger.top_up(user_id=1, quota=5, reference="invoice-2").balance_after == 65
    again = ledger.top_up(user_id=1, quota=100, reference="invoice-1")
    assert (again.balance_after, again.replayed, again.at) == (60, True, first.at)
    assert wallet(engine) == 65
    assert ledger.reconcile() == []


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"user_id": 2}, IdempotencyConflict, "user 1, now it comes with 2"),
        ({"quota": 101}, IdempotencyConflict, "quota 100, now it comes with 101"),
        ({"user_id": 9, "reference": "new"}, QueryDataError, "user 9 does not exist"),
        ({"quota": 0}, InvalidRequest, "quota"),
        ({"quota": 2**53 + 1}, InvalidRequest, "quota"),
        ({"quota": True}, InvalidRequest, "quota"),
        ({"reference": ""}, InvalidRequest, "reference"),
        ({"reference": "x" * 65}, InvalidRequest, "reference"),
        ({"reference": "n\x00l"}, InvalidRequest, "reference"),
        ({"note": "x" * 256}, InvalidRequest, "note"),
        ({"user_id": 3, "quota": 11, "reference": "too much"}, InvalidRequest, "may hold"),
    ],
)
def test_what_can_not_be_moves_nothing_and_says_why(
    ledger: Ledger, engine: Engine, values: dict[str, object], error: type[BillingError], said: str
) -> None:
    ledger.top_up(user_id=1, quota=100, reference="invoice-1")
    asked: dict[str, object] = {"user_id": 1, "quota": 100, "reference": "invoice-1", **values}
    with pytest.raises(error, match=said):
        ledger.top_up(**asked)  # type: ignore[arg-type]
    assert [wallet(engine, each) for each in (1, 2, 3)] == [60, 0, MAX_WALLET - 10]


def test_one_of_many_together_with_one_reference_counts_though_they_name_two_users(
    ledger: Ledger, engine: Engine
) -> None:
    def top_up(number: int) -> ToppedUp | IdempotencyConflict:
        try:
            return ledger.top_up(user_id=number % 2 + 1, quota=100, reference="race")
        except IdempotencyConflict as error:
            return error

    with ThreadPoolExecutor(CALLERS) as callers:
        answers = list(callers.map(top_up, range(CALLERS)))
    done = [each for each in answers if isinstance(each, ToppedUp)]
    assert sum(not each.replayed for each in done) == 1
    assert len(done) == CALLERS // 2
    assert wallet(engine, 1) + wallet(engine, 2) == 60
    assert ledger.reconcile() == []


def test_a_session_called_like_a_top_up_neither_drifts_nor_takes_its_memory_with_it(engine: Engine) -> None:
    given(engine, user=[{"id": 1, "quota": 0}], token=[{"id": 1, "user_id": 1, "remain_quota": 500}])
    clock = Clock()
    ledger = Ledger(engine, Policy(trust_quota=0), clock)
    ledger.top_up(user_id=1, quota=500, reference="r")
    ledger.pre_consume(request_id="topup:r", user_id=1, token_id=1, quota=100)
    ledger.apply([SettleJob("topup:r", 70)])
    assert ledger.reconcile() == []
    clock.at = 2 * DAY_S
    assert ledger.purge(DAY_S) == 1
    assert ledger.reconcile() == []
    assert ledger.top_up(user_id=1, quota=500, reference="r").replayed
    assert wallet(engine) == 430
