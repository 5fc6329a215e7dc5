"""No hot statement reads a big table from end to end: its cost must not grow with what was closed long ago."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, Insert, Select, Update, create_engine, make_url, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.pool import NullPool

from relay_billing import Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.deadletters import Filter, of_job
from relay_billing.schema import metadata
from relay_billing.store import statements
from relay_billing.store.at_once import HOLD, HOLD_ON_WALLET
from tests.fixtures.books import START, Clock
from tests.fixtures.plans import Plan, Plans, comparable, explaining

BIG = ("billing_sessions", "billing_ledger")
SESSIONS, USERS, RECENT = 60_000, 20_000, 200
DAY_S = 86_400
DAYS = 31
"""Sessions are spread over them; the last ones have just begun."""
STEP_MS = DAYS * DAY_S * 1000 // SESSIONS

FILL = (
    f"INSERT INTO users (id, quota) SELECT n, 1000000000 FROM generate_series(1, {USERS}) n",
    f"INSERT INTO tokens (id, user_id, remain_quota) SELECT n, n, 1000000000 FROM generate_series(1, {USERS}) n",
    "INSERT INTO subscription_plans (id, title, quota_reset_period) VALUES (1, 'daily', 'daily')",
    f"""INSERT INTO user_subscriptions (id, user_id, plan_id, amount_total, end_time)
        SELECT n, n, 1, 1000000, 4000000000 FROM generate_series(1, {USERS}) n""",
    # All are settled but the last ones, which are held.
    f"""INSERT INTO billing_sessions (request_id, user_id, token_id, quota, model_name, preference, playground, state,
            source, pre_consumed_quota, token_consumed, trusted, created_at, expires_at, actual_quota, closed_at)
        SELECT 'old' || n, 1 + n % {USERS}, 1 + n % {USERS}, 10, 'm', 'wallet_only', false,
            CASE WHEN n > {SESSIONS - RECENT} THEN 'preconsumed' ELSE 'settled' END,
            'wallet', 10, 10, false, at, at + 3600000,
            CASE WHEN n <= {SESSIONS - RECENT} THEN 10 END, CASE WHEN n <= {SESSIONS - RECENT} THEN at + 5000 END
        FROM generate_series(1, {SESSIONS}) n,
            LATERAL (SELECT {START}000 - ({SESSIONS}::bigint - n) * {STEP_MS} AS at) t
        ORDER BY n""",
    """INSERT INTO billing_ledger (request_id, account_type, account_id, kind, amount, balance_after, created_at)
        SELECT request_id, leg, user_id, 'pre_consume', -10, 1000000000, created_at
        FROM billing_sessions, unnest(ARRAY['wallet', 'token']) leg ORDER BY created_at, leg DESC""",
    "VACUUM ANALYZE",
)


@dataclass(frozen=True, slots=True)
class Watched:
    """A ledger over big tables, and the plans of what it does."""

    engine: Engine
    ledger: Ledger
    clock: Clock
    plans: Plans


@pytest.fixture(scope="module")
def big(postgresql_url: str) -> Iterator[Watched]:
    """Big tables with little that is open, as they are after a month of work."""
    url = make_url(postgresql_url).render_as_string(False)
    server = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    metadata.drop_all(server)
    metadata.create_all(server)
    with server.connect() as connection:
        for each in FILL:
            connection.execute(text(each))
    clock = Clock()
    with explaining(url) as (engine, plans):
        yield Watched(engine, Ledger(engine, Policy(trust_quota=0, trust_max_inflight=5), clock), clock, plans)
    metadata.drop_all(server)


def _asked(prefix: str, preference: str, count: int = 50) -> list[PreConsume]:
    return [PreConsume(f"{prefix}{number}", number + 1, number + 1, 10, "m", preference) for number in range(count)]


def _hold_and_settle(on: Watched) -> None:
    for preference in ("wallet_only", "subscription_first"):
        asked = _asked(preference, preference)
        on.ledger.pre_consume_many(asked)
        on.ledger.reserve(asked[0].request_id, 20)
        on.ledger.intend([SettleJob(each.request_id, 7) for each in asked])
        on.ledger.apply([SettleJob(each.request_id, 7) for each in asked])


def _hold_at_once(on: Watched) -> None:
    for preference in ("wallet_only", "subscription_first"):
        on.ledger.pre_consume_many(_asked(f"one-{preference}", preference, 1))
        on.ledger.apply([RefundJob(f"one-{preference}0")])


def _sweeps(on: Watched) -> None:
    on.ledger.pre_consume_many(_asked("late", "wallet_only"))
    on.ledger.intend([SettleJob(f"late{number}", 7) for number in range(20)])
    on.clock.at += 7_200
    on.ledger.apply_intents()
    on.ledger.expire_holds()
    on.ledger.reset_subscriptions()
    on.ledger.overview()


def _dead_letters(on: Watched) -> None:
    on.ledger.bury([of_job(SettleJob("old1", 7), "account_missing", "")])
    for letter in on.ledger.dead_letters(Filter(user_id=None, before_ms=START * 2_000)):
        on.ledger.replay(letter.id)
        on.ledger.write_off(letter.id, "a test")
    on.ledger.purge_dead_letters(0)


def _purge_nothing(on: Watched) -> None:
    assert on.ledger.purge(2 * DAYS * DAY_S) == 0


def _prove_the_last_hour(on: Watched) -> None:
    on.ledger.reconcile(since_ms=(START - 3_600) * 1000)


FRAGMENTS = ("PLANS",)
"""Statements that others are made of."""

CASES: dict[str, Callable[[Watched], None]] = {
    "holds, reserves, intents and settles in batches": _hold_and_settle,
    "holds at once, and refunds": _hold_at_once,
    "sweeps and the overview": _sweeps,
    "dead letters": _dead_letters,
    "a purge that finds nothing": _purge_nothing,
    "a proof of the last hour": _prove_the_last_hour,
}


def scanned(plans: list[Plan]) -> list[tuple[str, str]]:
    """What was read from end to end, with the statement that did."""
    return [(table, plan.statement) for plan in plans for table in plan.scans(BIG)]


@pytest.mark.parametrize("case", CASES)
def test_what_runs_often_reads_no_big_table_from_end_to_end(case: str, big: Watched) -> None:
    before = len(big.plans.seen())
    CASES[case](big)
    found = big.plans.seen()[before:]
    assert found
    assert scanned(found) == []


PLANTED = {
    "in the table's order": "SELECT count(*) FROM billing_sessions WHERE model_name = 'm'",
    "in an index's order": "SELECT * FROM billing_sessions WHERE model_name = 'x' ORDER BY request_id LIMIT 1",
}


@pytest.mark.parametrize("statement", PLANTED.values(), ids=PLANTED)
def test_a_scan_is_found_where_there_is_one(statement: str, big: Watched) -> None:
    before = len(big.plans.seen())
    with big.engine.connect() as connection:
        connection.execute(text(statement))
    assert [table for table, _ in scanned(big.plans.seen()[before:])] == ["billing_sessions"]


def _beginning(statement: Select[Any] | Insert | Update) -> str:
    """How the server is sent a statement: reads whole, writes in sets as far as their table or first column."""
    sent = comparable(str(statement.compile(dialect=PGDialect_psycopg())))  # type: ignore[no-untyped-call]
    return sent if isinstance(statement, Select) else sent.split("=")[0].split("(")[0]


def test_every_hot_statement_is_among_those_that_were_looked_at(big: Watched) -> None:
    _hold_and_settle(big)
    _hold_at_once(big)
    seen = {plan.statement for plan in big.plans.seen()}
    hot = {
        name: _beginning(each)
        for name, each in vars(statements).items()
        if isinstance(each, Select | Insert | Update) and not name.startswith("_") and name not in FRAGMENTS
    }
    hot |= {"HOLD": comparable(HOLD), "HOLD_ON_WALLET": comparable(HOLD_ON_WALLET)}
    assert [name for name, begins in hot.items() if not any(each.startswith(begins) for each in seen)] == []
