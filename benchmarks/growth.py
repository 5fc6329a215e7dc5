"""How throughput changes as the tables grow: the same holds and settles on 10,000 sessions and on millions."""

import statistics
import time
from dataclasses import asdict
from typing import Any

from sqlalchemy import Engine, text

from benchmarks.holds import async_client, client, orm
from benchmarks.measure import Measured, Rate, evenly
from benchmarks.settles import hold
from benchmarks.site import BATCH, POLICY, Site
from relay_billing import Ledger, SettleJob

SIZES = (10_000, 500_000, 5_000_000)
"""Sessions; the ledger has two rows for each."""
ROUNDS = 5
SETTLES = 10_000
SHARED_BUFFERS = "1GB"
"""As a server with millions of sessions has it; the default is 128 MB, less than one of the indexes."""
PRIMING = 60_000
"""Holds before anything is measured. After a checkpoint, which `settle_down` ends with, whatever changes a page first
writes all of it to the log: minutes later that is over."""
YARDSTICK = "naive ORM"

SESSIONS = """
    INSERT INTO billing_sessions (request_id, user_id, token_id, quota, model_name, preference, playground, state,
        source, pre_consumed_quota, token_consumed, trusted, created_at, expires_at, user_quota, actual_quota,
        closed_at)
    SELECT md5(n::text) || n, 1 + n % 10000, 1 + n % 10000, 10, 'bench', 'wallet_only', false, 'settled', 'wallet',
        10, 10, false, 1700000000000 + n, 1700003600000 + n, 1000000, 10, 1700000001000 + n
    FROM generate_series(CAST(:low AS BIGINT), CAST(:high AS BIGINT)) AS n
"""
ENTRIES = """
    INSERT INTO billing_ledger (request_id, account_type, account_id, kind, amount, balance_after, created_at)
    SELECT md5(n::text) || n, leg, 1 + n % 10000, 'pre_consume', -10, 1000000, 1700000000000 + n
    FROM generate_series(CAST(:low AS BIGINT), CAST(:high AS BIGINT)) AS n, unnest(ARRAY['wallet', 'token']) AS leg
"""
STEP = 250_000
# Ids of the past come in no order: to enter millions of them one by one would take longer than all that is measured.
UNINDEXED = (
    "ALTER TABLE billing_sessions DROP CONSTRAINT pk_billing_sessions",
    "ALTER TABLE billing_ledger DROP CONSTRAINT uq_billing_ledger_request_id",
    "DROP INDEX ix_billing_ledger_account",
)
INDEXED = (
    "SET LOCAL maintenance_work_mem = '1GB'",
    "ALTER TABLE billing_sessions ADD CONSTRAINT pk_billing_sessions PRIMARY KEY (request_id)",
    """ALTER TABLE billing_ledger ADD CONSTRAINT uq_billing_ledger_request_id
        UNIQUE (request_id, account_type, account_id, kind, step)""",
    "CREATE INDEX ix_billing_ledger_account ON billing_ledger (account_type, account_id, id)",
)


def grow(site: Site, there: int, size: int) -> None:
    """Add closed sessions of the past until there are `size`."""
    engine = site.engine()
    _all(engine, UNINDEXED)
    for low in range(there + 1, size + 1, STEP):
        span = {"low": low, "high": min(size, low + STEP - 1)}
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            connection.execute(text(SESSIONS), span)
            connection.execute(text(ENTRIES), span)
    _all(engine, INDEXED)
    engine.dispose()
    site.settle_down()


def _all(engine: Engine, each_of: tuple[str, ...]) -> None:
    with engine.begin() as connection:
        for statement in each_of:
            connection.execute(text(statement))


def settles(site: Site) -> Rate:
    """Settles in batches, as a worker applies them."""
    engine = site.engine()
    ledger = Ledger(engine, POLICY)
    ids = hold(ledger, SETTLES)
    began = time.perf_counter()
    for start in range(0, SETTLES, BATCH):
        ledger.apply([SettleJob(each, 7) for each in ids[start : start + BATCH]])
    seconds = time.perf_counter() - began
    engine.dispose()
    return Rate(SETTLES / seconds, 0.0, 0.0)


def prime(site: Site) -> None:
    """Touch the pages that holds and settles of these users touch."""
    engine = site.engine()
    hold(Ledger(engine, POLICY), PRIMING)
    engine.dispose()


def measured(site: Site, sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """A row for each size: medians of the rounds.

    The naive ORM, whose own table does not grow, takes turns with ours: it tells how fast the machine was meanwhile.
    """
    found: list[dict[str, Any]] = []
    there = 0
    for size in sizes:
        grow(site, there, size)
        there = size
        prime(site)
        ways: dict[str, Measured] = {
            "1 caller": client(site.url, 1, evenly),
            "64 callers": async_client(site.url, 64, evenly),
            "settles, 500 a batch": lambda: settles(site),
            YARDSTICK: orm(site.url, 1, evenly),
        }
        row: dict[str, Any] = {"sessions": size, "ledger_rows": 2 * size}
        rounds = [{name: way() for name, way in ways.items()} for _ in range(ROUNDS)]
        for name in ways:
            each = [measured[name] for measured in rounds]
            row[name] = asdict(sorted(each, key=lambda rate: rate.per_second)[ROUNDS // 2])
            shares = [measured[name].per_second / measured[YARDSTICK].per_second for measured in rounds]
            row[name]["times_naive"] = statistics.median(shares)
            print(f"{size:,} sessions: {name} {row[name]['per_second']:,.0f}/s", flush=True)
        found.append(row)
    return found
