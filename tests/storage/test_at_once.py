"""The hold in one round trip: taken where all is as usual, and the same as the general path takes."""

from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, event, select

from relay_billing import BillingError, BillingSession, Ledger, Policy, PreConsume
from relay_billing.schema import billing_ledger, metadata
from tests.fixtures.books import START, Clock, given

ASK = PreConsume("r1", 1, 1, 100, "gpt-4o", "wallet_first")
LATER = START + 1_000

# what: wallet, remain, unlimited, subscription ends, policy, request, statements of the hold alone
CASES = {
    "as usual": (1_000, 1_000, False, None, Policy(trust_quota=0), ASK, True),
    "to the last unit": (100, 100, False, None, Policy(trust_quota=0), ASK, True),
    "an unlimited token": (1_000, -5, True, None, Policy(trust_quota=0), ASK, True),
    "below the trust limit": (500, 1_000, False, None, Policy(trust_quota=500), ASK, True),
    "a token below the trust limit": (1_000, 500, False, None, Policy(trust_quota=500), ASK, True),
    "trusted": (501, 501, False, None, Policy(trust_quota=500), ASK, False),
    "forced": (501, 501, False, None, Policy(trust_quota=500), replace(ASK, force_pre_consume=True), True),
    "no subscription": (1_000, 1_000, False, None, Policy(trust_quota=0), replace(ASK, preference=""), True),
    "a subscription": (1_000, 1_000, False, LATER, Policy(trust_quota=0), replace(ASK, preference=""), False),
    "an ended one": (1_000, 1_000, False, START, Policy(trust_quota=0), replace(ASK, preference=""), True),
    "short wallet": (99, 1_000, False, None, Policy(trust_quota=0), ASK, False),
    "short token": (1_000, 99, False, None, Policy(trust_quota=0), ASK, False),
    "another's token": (1_000, 1_000, False, None, Policy(trust_quota=0), replace(ASK, token_id=2), False),
    "nobody": (1_000, 1_000, False, None, Policy(trust_quota=0), replace(ASK, user_id=9), False),
    "nothing to hold": (1_000, 1_000, False, None, Policy(trust_quota=0), replace(ASK, quota=0), False),
}


def books(engine: Engine, wallet: int, remain: int, unlimited: bool, ends: int | None) -> None:
    metadata.drop_all(engine)
    metadata.create_all(engine)
    bought = {"id": 1, "user_id": 1, "plan_id": 0, "amount_total": 1_000, "start_time": 1, "end_time": ends}
    given(
        engine,
        user=[{"id": 1, "quota": wallet}],
        token=[
            {"id": 1, "user_id": 1, "key": "a", "remain_quota": remain, "unlimited_quota": unlimited},
            {"id": 2, "user_id": 2, "key": "b", "remain_quota": 10_000},
        ],
        subscription=[] if ends is None else [bought],
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
    wallet, remain, unlimited, ends, policy, request, at_once = CASES[case]
    statements: list[str] = []

    def count(_: Connection, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    answers = []
    for fast in (True, False):
        books(postgresql, wallet, remain, unlimited, ends)
        ledger = Ledger(postgresql, policy, Clock())
        if not fast:
            cases = ledger._cases
            ledger._cases = replace(cases, dialect=replace(cases.dialect, hold_at_once=None))
        event.listen(postgresql, "before_cursor_execute", count)
        answer = held(ledger, request)
        event.remove(postgresql, "before_cursor_execute", count)
        if fast:
            assert (len(statements) == 1) is at_once
        assert ledger.reconcile() == []
        stored = ledger.get("r1") if isinstance(answer, BillingSession) else None
        answers.append((answer, stored, rows(postgresql)))
    assert answers[0] == answers[1]


def test_the_same_request_again_is_a_replay(postgresql: Engine) -> None:
    books(postgresql, 1_000, 1_000, False, None)
    ledger = Ledger(postgresql, Policy(trust_quota=0), Clock())
    first = held(ledger, ASK)
    assert held(ledger, ASK) == first
    assert held(ledger, replace(ASK, quota=101)) == "idempotency_conflict"
    assert len(rows(postgresql)) == 2
