"""What is closed and old goes; its sum stays."""

import random
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine, func, select, update

from relay_billing import Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.schema import billing_ledger, billing_sessions, users
from tests.fixtures.accounts import Clock, given, states, wallet

DAY_S = 86_400
WEALTH = 10_000_000


def accounts(engine: Engine) -> None:
    given(
        engine,
        user=[{"id": of, "quota": WEALTH} for of in (1, 2)],
        token=[{"id": of, "user_id": of, "remain_quota": WEALTH} for of in (1, 2)],
        plan=[{"id": 1, "title": "daily", "quota_reset_period": "daily"}],
        subscription=[
            {"id": 1, "user_id": 1, "plan_id": 1, "amount_total": 5_000, "start_time": 1, "end_time": 2**40, **_ACTIVE}
        ],
    )


_ACTIVE = {"status": "active", "last_reset_time": 0, "next_reset_time": 0}


def day_of_work(ledger: Ledger, day: int, chance: random.Random) -> None:
    for number in range(12):
        request_id, user = f"d{day}-{number}", chance.choice((1, 2))
        preference = chance.choice(("wallet_only", "subscription_first"))
        ledger.pre_consume(request_id=request_id, user_id=user, token_id=user, quota=100, preference=preference)
        if number % 3 == 0:
            ledger.apply([RefundJob(request_id)])
        elif number % 3 == 1:
            ledger.apply([SettleJob(request_id, chance.randrange(300))])


def count(engine: Engine, table: object) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


def test_the_books_prove_after_every_purge_and_only_closed_old_sessions_go(engine: Engine) -> None:
    accounts(engine)
    clock = Clock()
    ledger = Ledger(engine, Policy(trust_quota=0, hold_ttl=30 * DAY_S), clock)
    chance = random.Random(7)
    for day in range(6):
        clock.at = day * DAY_S
        day_of_work(ledger, day, chance)
        ledger.reset_subscriptions()
        ledger.purge(2 * DAY_S)
        assert ledger.reconcile() == []
    kept = states(engine)
    assert {state for request_id, state in kept.items() if request_id.startswith("d0-")} == {"preconsumed"}
    assert len([request_id for request_id in kept if request_id.startswith("d5-")]) == 12
    clock.at = 60 * DAY_S
    ledger.expire_holds()
    clock.at = 90 * DAY_S
    ledger.purge(DAY_S)
    assert states(engine) == {}
    assert ledger.reconcile() == []
    with engine.connect() as connection:
        kinds = set(connection.execute(select(billing_ledger.c.kind)).scalars())
    assert kinds == {"opening", "adjust"}


def test_a_drift_is_still_seen_after_a_purge(engine: Engine) -> None:
    accounts(engine)
    clock = Clock()
    ledger = Ledger(engine, Policy(trust_quota=0), clock)
    ledger.pre_consume(request_id="r1", user_id=2, token_id=2, quota=100)
    ledger.apply([SettleJob("r1", 80)])
    clock.at = 3 * DAY_S
    assert ledger.purge(DAY_S) == 1
    with engine.begin() as connection:
        connection.execute(update(users).where(users.c.id == 2).values(quota=users.c.quota + 5))
    assert [(drift.what, drift.id, drift.difference) for drift in ledger.reconcile()] == [("wallet", "2", 5)]


def test_what_waits_for_somebody_stays(engine: Engine) -> None:
    accounts(engine)
    clock = Clock()
    ledger = Ledger(engine, Policy(trust_quota=0), clock)
    for request_id in ("parked", "intended", "expired"):
        ledger.pre_consume(request_id=request_id, user_id=2, token_id=2, quota=100, hold_ttl=60)
    ledger.apply([SettleJob("parked", 900_000_000)])
    clock.at = 120
    ledger.expire_holds()
    ledger.intend([SettleJob("intended", 5)])
    clock.at = 3 * DAY_S
    assert ledger.purge(DAY_S) == 1
    assert states(engine) == {"parked": "preconsumed", "intended": "expired"}
    assert ledger.apply_intents() == 1
    assert wallet(engine, 2) == WEALTH - 100 - 5
    assert ledger.reconcile() == []


def test_purges_together_and_beside_new_work_lose_nothing(server: Engine) -> None:
    given(server, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    clock = Clock()
    ledger = Ledger(server, Policy(trust_quota=0), clock)
    for start in range(0, 1_200, 400):
        names = [f"old{number}" for number in range(start, start + 400)]
        ledger.pre_consume_many([PreConsume(name, 1, 1, 10) for name in names])
        ledger.apply([SettleJob(name, 7) for name in names])
    clock.at = 3 * DAY_S

    def work(name: int) -> int:
        if name < 3:
            return ledger.purge(DAY_S)
        for number in range(40):
            ledger.pre_consume(request_id=f"new{name}-{number}", user_id=1, token_id=1, quota=10)
            ledger.apply([RefundJob(f"new{name}-{number}")])
        return 0

    with ThreadPoolExecutor(6) as pool:
        removed = sum(pool.map(work, range(6)))
    assert removed + ledger.purge(DAY_S) == 1_200
    assert wallet(server) == WEALTH - 1_200 * 7
    assert count(server, billing_sessions) == 120
    assert ledger.reconcile() == []
