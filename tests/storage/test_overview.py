"""How things stand, counted through the indexes of what is open."""

import re

import pytest
from sqlalchemy import Engine, Select, func, select, text, update
from sqlalchemy.sql import Executable

from relay_billing import Ledger, Policy, RefundJob, SettleJob
from relay_billing.flows import overview
from relay_billing.flows.overview import Open
from relay_billing.flows.reconcile import KEPT_PROOFS
from relay_billing.schema import billing_reconciliations, users
from tests.fixtures.accounts import START, Clock, given

HUGE = 600_000_000
START_MS = START * 1000
MANY = 3_000
"""Closed sessions beside which the open ones are few."""


def ledger_of(engine: Engine, clock: Clock) -> Ledger:
    return Ledger(engine, Policy(trust_quota=0), clock)


def test_nothing_is_open_in_new_books(engine: Engine) -> None:
    seen = ledger_of(engine, Clock()).overview()
    nothing = Open(0, 0, None)
    assert (seen.holds, seen.intents, seen.dead_letters, seen.reconcile) == (nothing, nothing, nothing, None)
    assert seen.holds.age_s(seen.at) == 0


def test_what_is_open_is_counted_summed_and_aged(engine: Engine) -> None:
    given(engine, user=[{"id": 1, "quota": 10_000}], token=[{"id": 1, "user_id": 1, "remain_quota": 10_000}])
    clock = Clock()
    ledger = ledger_of(engine, clock)
    for number, request_id in enumerate(("parked", "r1", "r2", "settled", "refunded")):
        clock.at = number
        ledger.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100 + number)
    clock.at = 10
    ledger.apply([SettleJob("settled", 50), RefundJob("refunded"), SettleJob("parked", HUGE)])
    clock.at = 11
    ledger.intend([SettleJob("r2", 70)])
    clock.at = 20
    seen = ledger.overview()
    assert seen.holds == Open(3, 303, START_MS + 1_000)
    assert seen.parked == 1
    assert seen.intents == Open(1, 70, START_MS + 11_000)
    assert seen.dead_letters == Open(1, HUGE, START_MS + 10_000)
    assert (seen.holds.age_s(seen.at), seen.intents.age_s(seen.at)) == (19, 9)


def test_a_proof_of_all_the_books_is_remembered_and_one_of_a_part_is_not(engine: Engine) -> None:
    given(engine, user=[{"id": 1, "quota": 1_000}], token=[{"id": 1, "user_id": 1, "remain_quota": 1_000}])
    clock = Clock()
    ledger = ledger_of(engine, clock)
    ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
    ledger.reconcile(user_id=1)
    ledger.reconcile(since_ms=0)
    assert ledger.overview().reconcile is None
    ledger.reconcile()
    proved = ledger.overview().reconcile
    assert proved is not None
    assert (proved.finished_at, proved.drifts, proved.drift_quota) == (START_MS, 0, 0)
    with engine.begin() as connection:
        connection.execute(update(users).values(quota=users.c.quota - 7))
    clock.at = 60
    ledger.reconcile()
    proved = ledger.overview().reconcile
    assert proved is not None
    assert (proved.finished_at, proved.drifts, proved.drift_quota) == (START_MS + 60_000, 1, 7)


def test_only_the_last_proofs_are_kept(engine: Engine) -> None:
    old = {"finished_at": 1, "duration_ms": 1, "drifts": 0, "drift_quota": 0}
    with engine.begin() as connection:
        connection.execute(billing_reconciliations.insert(), [old] * (KEPT_PROOFS + 5))
    ledger_of(engine, Clock()).reconcile()
    with engine.connect() as connection:
        kept = connection.execute(select(func.count()).select_from(billing_reconciliations)).scalar_one()
    assert kept == KEPT_PROOFS


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (overview._holds(), "ix_billing_sessions_open"),
        (overview._intents(), "ix_billing_sessions_waiting"),
        (overview._dead_letters(), "ix_billing_dead_letters_open"),
        (overview._last_reconcile(), "pk_billing_reconciliations"),
    ],
    ids=["holds", "intents", "dead letters", "last reconcile"],
)
def test_nothing_closed_is_read(postgresql: Engine, statement: Executable, index: str) -> None:
    given(postgresql, user=[{"id": 1, "quota": 10**9}], token=[{"id": 1, "user_id": 1, "remain_quota": 10**9}])
    ledger = Ledger(postgresql, Policy(trust_quota=0))
    ledger.pre_consume(request_id="open", user_id=1, token_id=1, quota=5)
    with postgresql.begin() as connection:
        connection.execute(text(CLOSED_SESSIONS))
        connection.execute(text(CLOSED_LETTERS))
        connection.execute(billing_reconciliations.insert(), [{**PROOF} for _ in range(MANY)])
        for table in ("billing_sessions", "billing_dead_letters", "billing_reconciliations"):
            connection.execute(text(f"ANALYZE {table}"))
        assert isinstance(statement, Select)
        words = statement.compile(postgresql, compile_kwargs={"literal_binds": True})
        plan = "\n".join(row[0] for row in connection.execute(text(f"EXPLAIN {words}")))
    assert index in plan, plan
    assert not re.search(r"Seq Scan on billing_", plan), plan


PROOF = {"finished_at": 1, "duration_ms": 1, "drifts": 0, "drift_quota": 0}
CLOSED_SESSIONS = f"""
INSERT INTO billing_sessions (request_id, user_id, quota, model_name, preference, playground, state, source,
    pre_consumed_quota, token_consumed, trusted, created_at, expires_at)
SELECT 'closed' || n, 1, 5, '', 'wallet_only', true, 'settled', 'wallet', 5, 0, false, n, n
FROM generate_series(1, {MANY}) AS n
"""
CLOSED_LETTERS = f"""
INSERT INTO billing_dead_letters (task, reason, detail, job, fingerprint, created_at, last_at, resolved_at)
SELECT 'billing.settle', 'conflict', '', '', n, n, n, n FROM generate_series(1, {MANY}) AS n
"""
