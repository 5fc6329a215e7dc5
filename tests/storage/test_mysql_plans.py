"""As `test_plans`, on MariaDB: no hot statement reads a big table, or one of its indexes, from end to end."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Engine

from relay_billing import Ledger, Policy
from relay_billing.store import mysql_connections
from relay_billing.store.drivers import engine_of
from tests.fixtures.accounts import START, Clock
from tests.fixtures.plans import Plans
from tests.fixtures.tables import Tables
from tests.storage.test_plans import BIG, CASES, Watched

SESSIONS, USERS, RECENT = 20_000, 5_000, 200
STEP_MS = 31 * 86_400_000 // SESSIONS
HELD = f"seq > {SESSIONS - RECENT}"
AT = f"{START}000 - ({SESSIONS} - seq) * {STEP_MS}"

FILL = (
    f"INSERT INTO users (id, quota) SELECT seq, 1000000000 FROM seq_1_to_{USERS}",
    f"INSERT INTO tokens (id, user_id, remain_quota) SELECT seq, seq, 1000000000 FROM seq_1_to_{USERS}",
    "INSERT INTO subscription_plans (id, title, quota_reset_period) VALUES (1, 'daily', 'daily')",
    f"""INSERT INTO user_subscriptions (id, user_id, plan_id, amount_total, end_time)
        SELECT seq, seq, 1, 1000000, 4000000000 FROM seq_1_to_{USERS}""",
    f"""INSERT INTO billing_sessions (request_id, user_id, token_id, quota, model_name, preference, playground, state,
            source, pre_consumed_quota, token_consumed, trusted, created_at, expires_at, actual_quota, closed_at)
        SELECT concat('old', seq), 1 + seq % {USERS}, 1 + seq % {USERS}, 10, 'm', 'wallet_only', false,
            IF({HELD}, 'preconsumed', 'settled'), 'wallet', 10, 10, false, {AT}, {AT} + 3600000,
            IF({HELD}, NULL, 10), IF({HELD}, NULL, {AT} + 5000)
        FROM seq_1_to_{SESSIONS}""",
    """INSERT INTO billing_ledger (request_id, account_type, account_id, kind, amount, balance_after, created_at)
        SELECT request_id, leg, user_id, 'pre_consume', -10, 1000000000, created_at
        FROM billing_sessions, (SELECT 'wallet' AS leg UNION ALL SELECT 'token') AS legs""",
    "ANALYZE TABLE users, tokens, user_subscriptions, billing_sessions, billing_ledger",
)
READS_ALL = "a proof of the last hour"
"""Where there is no BRIN, sessions by the time they were closed are found in an index of all: read once an hour."""
RUN = {
    name: run for name, run in CASES.items() if "fast" not in name and "one statement" not in name and name != READS_ALL
}


@dataclass(slots=True)
class Explained:
    """What was sent, explained afterwards."""

    engine: Engine
    sent: list[str] = field(default_factory=list)

    def scans(self) -> list[tuple[str, str, str]]:
        """Big tables that are read from end to end: table, how, statement."""
        asked, self.sent[:] = list(dict.fromkeys(self.sent)), []
        found = []
        with self.engine.connect() as connection:
            for statement in asked:
                cursor = connection.connection.cursor()
                cursor.execute(f"EXPLAIN {statement}")
                names = [column[0] for column in cursor.description]
                plan = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
                # A few rows in an index's order are what a LIMIT asks for.
                found += [
                    (str(each["table"]), str(each["type"]), statement)
                    for each in plan
                    if each["table"] in BIG and each["type"] in ("ALL", "index") and int(str(each["rows"])) > 1_000
                ]
        return found


@pytest.fixture(scope="module")
def big(mariadb_url: str, mariadb_tables: Tables) -> Iterator[tuple[Watched, Explained]]:
    """Big tables with little that is open."""
    mariadb_tables.empty()
    engine = engine_of(mariadb_url)
    with engine.begin() as connection:
        for each in FILL:
            connection.exec_driver_sql(each.replace("%", "%%"))
    clock = Clock()
    ledger = Ledger(engine, Policy(trust_quota=0, trust_max_inflight=5), clock)
    yield Watched(engine, ledger, clock, Plans()), Explained(engine)
    engine.dispose()
    mariadb_tables.empty()


@pytest.mark.parametrize("case", RUN)
def test_what_runs_often_reads_no_big_table_from_end_to_end(
    case: str, big: tuple[Watched, Explained], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, explained = big
    real = mysql_connections._Connection.query

    def noting(self: mysql_connections._Connection, sql: str | bytes, unbuffered: bool = False) -> int:
        said = sql.decode() if isinstance(sql, bytes | bytearray) else sql
        explained.sent += [each for each in said.split("; ") if each.startswith(("SELECT", "UPDATE", "DELETE"))]
        return real(self, sql, unbuffered)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(mysql_connections._Connection, "query", noting)
        RUN[case](watched)
    assert explained.sent
    assert explained.scans() == []


def test_a_scan_is_found_where_there_is_one(big: tuple[Watched, Explained]) -> None:
    _, explained = big
    explained.sent.append("SELECT count(*) FROM billing_sessions WHERE model_name = 'm'")
    assert [(table, how) for table, how, _ in explained.scans()] == [("billing_sessions", "ALL")]
