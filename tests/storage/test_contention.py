"""Many threads together: never more is granted than was there, and nothing is left that another could have had."""

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from sqlalchemy import Engine, func, select

from relay_billing import BillingError, Ledger, Outcome, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.schema import billing_ledger
from tests.fixtures.accounts import Clock, given, states, token, used, wallet
from tests.model import DAY

T = TypeVar("T")

THREADS = 32
EACH = 100
AMPLE = 1_000_000
GRANTED = 20
"""Of 32 requests, so many can be paid."""

# who is short: wallet, token, allowance, preference
SHORT = {
    "wallet": (GRANTED * EACH, AMPLE, AMPLE, "wallet_only"),
    "token": (AMPLE, GRANTED * EACH, AMPLE, "wallet_only"),
    "subscription": (AMPLE, AMPLE, GRANTED * EACH, "subscription_only"),
}


def ledger_with(engine: Engine, funds: int, remain: int, allowance: int) -> Ledger:
    given(
        engine,
        user=[{"id": 1, "quota": funds}],
        token=[{"id": 1, "user_id": 1, "remain_quota": remain}],
        subscription=[
            {"id": 1, "user_id": 1, "plan_id": 0, "amount_total": allowance, "start_time": 1, "end_time": 2**40}
        ],
    )
    return Ledger(engine, Policy(trust_quota=0), Clock())


def together(count: int, call: Callable[[int], T]) -> list[T]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(count)))


def _grants(ledger: Ledger, preference: str) -> Counter[str]:
    def ask(number: int) -> str:
        try:
            ledger.pre_consume(request_id=f"r{number}", user_id=1, token_id=1, quota=EACH, preference=preference)
        except BillingError as error:
            return error.code
        return "granted"

    return Counter(together(THREADS, ask))


@pytest.mark.parametrize("short", list(SHORT))
def test_32_threads_are_granted_exactly_what_there_is(server: Engine, short: str) -> None:
    funds, remain, allowance, preference = SHORT[short]
    ledger = ledger_with(server, funds, remain, allowance)
    answers = _grants(ledger, preference)
    assert answers["granted"] == GRANTED
    assert len(answers) == 2
    left = {"wallet": wallet(server), "token": token(server), "subscription": allowance - used(server)}
    assert left[short] == 0
    assert ledger.reconcile() == []


def test_threads_on_sqlite_are_granted_exactly_what_there_is(engine: Engine) -> None:
    ledger = ledger_with(engine, GRANTED * EACH, AMPLE, AMPLE)
    assert _grants(ledger, "wallet_only")["granted"] == GRANTED
    assert wallet(engine) == 0


def test_one_request_id_from_32_threads_is_one_session_and_one_movement(server: Engine) -> None:
    ledger = ledger_with(server, AMPLE, AMPLE, AMPLE)

    def ask(_: int) -> int:
        return ledger.pre_consume(request_id="same", user_id=1, token_id=1, quota=EACH).pre_consumed_quota

    assert set(together(THREADS, ask)) == {EACH}
    assert used(server) == EACH
    with server.connect() as connection:
        assert connection.execute(select(func.count()).select_from(billing_ledger)).scalar_one() == 2


def test_batches_that_overlap_in_any_order_are_each_applied_once(server: Engine) -> None:
    ledger = ledger_with(server, AMPLE, AMPLE, AMPLE)
    names = [f"r{number}" for number in range(200)]
    requests = [PreConsume(name, 1, 1, EACH, preference="wallet_only") for name in names]
    assert all(not isinstance(answer, BillingError) for answer in ledger.pre_consume_many(requests))

    def settle(number: int) -> Counter[Outcome]:
        order = random.Random(number).sample(names, len(names))
        return Counter(ledger.apply([SettleJob(name, 60) for name in order]))

    outcomes: Counter[Outcome] = Counter()
    for answer in together(8, settle):
        outcomes += answer
    assert outcomes == {Outcome.APPLIED: 200, Outcome.DUPLICATE: 1_400}
    assert wallet(server) == AMPLE - 200 * 60
    assert ledger.reconcile() == []


def test_settle_refund_and_expiry_together_end_every_session_once(server: Engine) -> None:
    ledger = ledger_with(server, AMPLE, AMPLE, AMPLE)
    names = [f"r{number}" for number in range(60)]
    ledger.pre_consume_many([PreConsume(name, 1, 1, EACH, preference="wallet_only", hold_ttl=1) for name in names])
    late = Ledger(server, Policy(trust_quota=0), Clock(DAY))

    def end(number: int) -> None:
        order = random.Random(number).sample(names, len(names))
        if number % 3 == 0:
            late.apply([SettleJob(name, 60) for name in order])
        elif number % 3 == 1:
            late.apply([RefundJob(name) for name in order])
        else:
            late.expire_holds()

    together(9, end)
    ended = Counter(states(server).values())
    assert set(ended) <= {"settled", "refunded"}
    assert wallet(server) == AMPLE - 60 * ended["settled"]
    assert ledger.reconcile() == []


def test_sweepers_together_apply_each_intent_once(server: Engine) -> None:
    ledger = ledger_with(server, AMPLE, AMPLE, AMPLE)
    names = [f"r{number}" for number in range(400)]
    ledger.pre_consume_many([PreConsume(name, 1, 1, EACH, preference="wallet_only") for name in names])
    ledger.intend([SettleJob(name, 60) for name in names])
    later = Ledger(server, Policy(trust_quota=0), Clock(DAY))
    assert sum(together(6, lambda _: later.apply_intents())) == 400
    assert wallet(server) == AMPLE - 400 * 60
    assert ledger.reconcile() == []
