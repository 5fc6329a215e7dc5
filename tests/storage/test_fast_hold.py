"""The fast path of a hold: taken where all its guards hold, and the same as the general path takes."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from relay_billing import BillingError, BillingSession, Ledger, Policy, PreConsume
from relay_billing.domain.fast_hold import assume
from relay_billing.domain.sources import FUNDING
from relay_billing.schema import billing_ledger, metadata
from tests.fixtures.accounts import START, Clock, given

ASK = PreConsume("r1", 1, 1, 100, "gpt-4o", "wallet_first")
LATER = START + 1_000

SUBSCRIBED = replace(ASK, preference="")
TOLD = Policy(trust_quota=0, announce=True, wallet_low_quota=400, subscription_low_percent=10)
HALF_SPENT = {"amount_total": 1_000, "amount_used": 500}

# what: wallet, remain, unlimited, a subscription of plan 1, policy, request, whether one statement does
CASES: dict[str, tuple[Any, ...]] = {
    "as usual": (1_000, 1_000, False, None, Policy(trust_quota=0), ASK, True),
    "to the last unit": (100, 100, False, None, Policy(trust_quota=0), ASK, True),
    "an unlimited token": (1_000, -5, True, None, Policy(trust_quota=0), ASK, True),
    "below the trust limit": (500, 1_000, False, None, Policy(trust_quota=500), ASK, True),
    "a token below the trust limit": (1_000, 500, False, None, Policy(trust_quota=500), ASK, True),
    "trusted": (501, 501, False, None, Policy(trust_quota=500), ASK, True),
    "trusted with an unlimited token": (501, 0, True, None, Policy(trust_quota=500), ASK, True),
    "trusted, but counted": (501, 501, False, None, Policy(trust_quota=500, trust_max_inflight=3), ASK, False),
    "more than the trust limit": (501, 501, False, None, Policy(trust_quota=500), replace(ASK, quota=501), False),
    "forced": (501, 501, False, None, Policy(trust_quota=500), replace(ASK, force_pre_consume=True), True),
    "no subscription": (1_000, 1_000, False, None, Policy(trust_quota=0), SUBSCRIBED, True),
    "no subscription, trusted": (501, 501, False, None, Policy(trust_quota=500), SUBSCRIBED, True),
    "a subscription": (1_000, 1_000, False, {}, Policy(trust_quota=0), SUBSCRIBED, True),
    "a subscription, never trusted": (501, 501, False, {}, Policy(trust_quota=500), SUBSCRIBED, True),
    "a subscription alone": (0, 1_000, True, {}, Policy(), replace(ASK, preference="subscription_only"), True),
    "an unlimited one": (1_000, 1_000, False, {"amount_total": 0}, Policy(trust_quota=0), SUBSCRIBED, True),
    "to its last unit": (1_000, 100, False, {"amount_used": 900}, Policy(trust_quota=0), SUBSCRIBED, True),
    "a full one": (1_000, 1_000, False, {"amount_used": 901}, Policy(trust_quota=0), SUBSCRIBED, False),
    "an ended one": (1_000, 1_000, False, {"end_time": START}, Policy(trust_quota=0), SUBSCRIBED, True),
    "an expired one": (1_000, 1_000, False, {"status": "expired"}, Policy(trust_quota=0), SUBSCRIBED, True),
    "one without its plan": (1_000, 1_000, False, {"plan_id": 9}, Policy(trust_quota=0), SUBSCRIBED, True),
    "a daily one, not begun": (1_000, 1_000, False, {"plan_id": 2}, Policy(trust_quota=0), SUBSCRIBED, False),
    "a daily one": (
        1_000,
        1_000,
        False,
        {"plan_id": 2, "last_reset_time": START - 9, "next_reset_time": START + 9, **HALF_SPENT},
        Policy(trust_quota=0),
        SUBSCRIBED,
        True,
    ),
    "a daily one that is due": (
        1_000,
        1_000,
        False,
        {"plan_id": 2, "last_reset_time": START - 99_999, "next_reset_time": START, **HALF_SPENT},
        Policy(trust_quota=0),
        SUBSCRIBED,
        False,
    ),
    "a subscription only after the wallet": (99, 1_000, False, {}, Policy(trust_quota=0), ASK, False),
    "a subscription and a short token": (1_000, 99, False, {}, Policy(trust_quota=0), SUBSCRIBED, False),
    "short wallet": (99, 1_000, False, None, Policy(trust_quota=0), ASK, False),
    "short token": (1_000, 99, False, None, Policy(trust_quota=0), ASK, False),
    "another's token": (1_000, 1_000, False, None, Policy(trust_quota=0), replace(ASK, token_id=2), False),
    "nobody": (1_000, 1_000, False, None, Policy(trust_quota=0), replace(ASK, user_id=9), False),
    "nothing to hold": (1_000, 1_000, False, None, Policy(trust_quota=0), replace(ASK, quota=0), False),
    "told, far above the threshold": (1_000, 1_000, False, None, TOLD, ASK, True),
    "told, down to the threshold": (500, 1_000, False, None, TOLD, ASK, False),
    "told, a subscription with much left": (0, 1_000, False, {}, TOLD, SUBSCRIBED, True),
    "told, a subscription down to its share": (0, 1_000, False, {"amount_used": 800}, TOLD, SUBSCRIBED, False),
    "odd words": (1_000, 1_000, False, None, Policy(), replace(ASK, model_name='a"b\\c{,}é', request_id="r1"), True),
}


def fresh_accounts(engine: Engine, wallet: int, remain: int, unlimited: bool, bought: dict[str, object] | None) -> None:
    metadata.drop_all(engine)
    metadata.create_all(engine)
    first = {"id": 5, "user_id": 1, "plan_id": 1, "amount_total": 1_000, "start_time": 1, "end_time": LATER}
    later = {**first, "id": 4, "end_time": LATER + 1}
    given(
        engine,
        user=[{"id": 1, "quota": wallet}],
        token=[
            {"id": 1, "user_id": 1, "key": "a", "remain_quota": remain, "unlimited_quota": unlimited},
            {"id": 2, "user_id": 2, "key": "b", "remain_quota": 10_000},
        ],
        plan=[{"id": 1, "title": "gold"}, {"id": 2, "title": "daily", "quota_reset_period": "daily"}],
        subscription=[] if bought is None else [{**first, **bought}, {**later, **bought}],
    )


def rows(engine: Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [
            tuple(row)[1:] for row in connection.execute(select(billing_ledger).order_by(billing_ledger.c.account_type))
        ]


def held(ledger: Ledger, request: PreConsume) -> BillingSession | str:
    (answer,) = ledger.pre_consume_many([request])
    return answer.code if isinstance(answer, BillingError) else answer


@pytest.mark.parametrize("case", list(CASES))
def test_it_is_the_hold_that_the_general_path_takes(postgresql: Engine, case: str) -> None:
    wallet, remain, unlimited, bought, policy, request, taken = CASES[case]
    transactions: list[object] = []

    def count(*connection: object) -> None:
        transactions.append(connection)

    answers = []
    for fast in (True, False):
        fresh_accounts(postgresql, wallet, remain, unlimited, bought)
        ledger = Ledger(postgresql, policy, Clock(), fast_paths=fast)
        event.listen(postgresql, "checkout", count)
        answer = held(ledger, request)
        event.remove(postgresql, "checkout", count)
        if fast:
            tried = assume(policy, START * 1000, request, FUNDING) is not None
            assert (tried and len(transactions) == 1) is taken
        assert ledger.reconcile() == []
        stored = ledger.get("r1") if isinstance(answer, BillingSession) else None
        if stored is not None:
            assert answer == stored
        answers.append((answer, stored, rows(postgresql)))
    assert answers[0] == answers[1]


def test_the_same_request_again_is_a_replay(postgresql: Engine) -> None:
    fresh_accounts(postgresql, 1_000, 1_000, False, None)
    ledger = Ledger(postgresql, Policy(trust_quota=0), Clock())
    first = held(ledger, ASK)
    assert held(ledger, ASK) == first
    assert held(ledger, replace(ASK, quota=101)) == "idempotency_conflict"
    assert len(rows(postgresql)) == 2
