"""No hot statement reads a big table from end to end: its cost must not grow with what was closed long ago."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Engine, Insert, Select, Update, create_engine, make_url, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.pool import NullPool

from relay_billing import Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain.dead_letters import Letter
from relay_billing.flows import dead_letters
from relay_billing.flows.dead_letters import Filter
from relay_billing.flows.shadow import judged
from relay_billing.schema import metadata
from relay_billing.store import statements
from relay_billing.store.drivers import streamed
from relay_billing.store.fast_hold import HOLD, HOLD_ON_WALLET
from relay_billing.store.fast_hold_batch import HOLDS
from relay_billing.store.fast_settle import SETTLES
from tests.fixtures.accounts import START, Clock
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


def _hold_and_settle(on: Watched, *, fast_paths: bool = False) -> None:
    ledger = Ledger(on.engine, on.ledger.policy, on.clock, fast_paths=fast_paths)
    for preference in ("wallet_only", "subscription_first"):
        asked = _asked(f"{fast_paths}-{preference}", preference)
        ledger.pre_consume_many(asked)
        ledger.reserve(asked[0].request_id, 20)
        ledger.intend([SettleJob(each.request_id, 7) for each in asked])
        ledger.apply([SettleJob(each.request_id, 7) for each in asked])


def _hold_and_settle_fast(on: Watched) -> None:
    """More often than PostgreSQL plans a statement anew, in batches of several sizes."""
    for number in range(KEPT_AFTER):
        size = (2, 50, 200)[number % 3]
        asked = _asked(f"fast{number}-", "wallet_only", size)
        on.ledger.pre_consume_many(asked)
        on.ledger.apply([(SettleJob(each.request_id, 7), RefundJob(each.request_id))[number % 2] for each in asked])
    _hold_and_settle(on, fast_paths=True)


def _fast_hold(on: Watched) -> None:
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
    on.ledger.run(dead_letters.keep, [Letter.of_poison(SettleJob("old1", 7), 3, None)])
    for letter in on.ledger.read(dead_letters.find, Filter(user_id=None, before_ms=START * 2_000)):
        on.ledger.run(dead_letters.replay, letter.id)
        on.ledger.run(dead_letters.write_off, letter.id, "a test")
    on.ledger.run_in_batches(dead_letters.purge, 0)


def _purge_nothing(on: Watched) -> None:
    assert on.ledger.purge(2 * DAYS * DAY_S) == 0


def _prove_the_last_hour(on: Watched) -> None:
    on.ledger.reconcile(since_ms=(START - 3_600) * 1000)


def _judge_in_shadow(on: Watched) -> None:
    """As a relay and a worker in shadow, and the report of the last hour."""
    ledger = Ledger(on.engine, replace(on.ledger.policy, shadow=True), on.clock)
    for number in range(KEPT_AFTER):
        asked = _asked(f"shadow{number}-", ("wallet_only", "subscription_first")[number % 2])
        asked.append(PreConsume(f"refused{number}", 1, 1, 10**15))
        ledger.pre_consume_many(asked)
        ledger.reserve(asked[0].request_id, 20)
        ledger.apply([SettleJob(each.request_id, 7) for each in asked[:25]])
    assert len(list(streamed(on.engine, judged((START - 3_600) * 1000)))) > KEPT_AFTER


KEPT_AFTER = 24
"""Calls after which a statement is prepared (five) and PostgreSQL keeps a plan of it (five more)."""
FRAGMENTS = ("PLANS",)
"""Statements that others are made of."""

CASES: dict[str, Callable[[Watched], None]] = {
    "holds, reserves, intents and settles in batches": _hold_and_settle,
    "holds, settles and refunds of whole batches in one statement": _hold_and_settle_fast,
    "takes a fast hold, and refunds": _fast_hold,
    "sweeps and the overview": _sweeps,
    "dead letters": _dead_letters,
    "a shadow, and its report": _judge_in_shadow,
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
    _hold_and_settle(big, fast_paths=True)
    _fast_hold(big)
    _judge_in_shadow(big)
    # A write that counts its rows is a part of the statement that checks the count.
    seen = {plan.statement.removeprefix("WITH moved AS (") for plan in big.plans.seen()}
    hot = {
        name: _beginning(each)
        for name, each in vars(statements).items()
        if isinstance(each, Select | Insert | Update) and not name.startswith("_") and name not in FRAGMENTS
    }
    hot |= {"HOLD": comparable(HOLD), "HOLD_ON_WALLET": comparable(HOLD_ON_WALLET)}
    hot |= {"HOLDS": comparable(HOLDS), "SETTLES": comparable(SETTLES)}
    assert [name for name, begins in hot.items() if not any(each.startswith(begins) for each in seen)] == []
