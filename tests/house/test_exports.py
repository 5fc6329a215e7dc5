"""What the package shows, and what importing it costs."""

import sys
from pathlib import Path

import relay_billing
from tests.fixtures.outside import run
from tests.fixtures.workers import ROOT

PUBLIC = [
    "AsyncBillingClient",
    "BillingClient",
    "BillingError",
    "BillingSession",
    "BillingUnavailable",
    "Gathering",
    "IdempotencyConflict",
    "InsufficientUserQuota",
    "InvalidRequest",
    "Ledger",
    "Outcome",
    "Policy",
    "PreConsume",
    "PreConsumeTokenQuotaFailed",
    "QueryDataError",
    "RefundJob",
    "SettleJob",
    "UnknownSession",
    "UpdateDataError",
]
LATER = ("celery", "kombu", "psycopg", "aiosqlite", "redis", "sqlalchemy.ext.asyncio", "sqlalchemy.orm")
"""What is imported when it is first needed: importing the package takes under 400 ms."""
OPERATORS = ("config", "tasks", "worker", "pydantic", "structlog", "typer", "alembic", "prometheus_client", "flower")
LOOK = f"""
import sys
import relay_billing
print(*[name for name in {LATER!r} if name in sys.modules])
from celery import _state
assert _state.default_app is None, "a client must not make a current app"
print(*[name for name in {OPERATORS!r} if name in sys.modules])
"""


def test_the_public_names_are_these_and_sorted() -> None:
    assert relay_billing.__all__ == PUBLIC == sorted(PUBLIC)
    assert all(hasattr(relay_billing, name) for name in PUBLIC)


def test_importing_the_package_brings_nothing_of_the_operators(tmp_path: Path) -> None:
    done = run((sys.executable, "-c", LOOK), tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_nothing_in_the_package_reads_the_environment() -> None:
    readers = [path.name for path in (ROOT / "relay_billing").rglob("*.py") if "environ" in path.read_text()]
    assert readers == []


REST = """
from relay_billing import BillingClient, Policy
from relay_billing.schema import metadata, tokens, users
from relay_billing.store.drivers import engine_of
engine = engine_of("sqlite:///billing.db")
metadata.create_all(engine)
with engine.begin() as connection:
    connection.execute(users.insert().values(id=1, quota=1000))
    connection.execute(tokens.insert().values(id=1, user_id=1, remain_quota=1000))
client = BillingClient("sqlite:///billing.db", "filesystem://broker", Policy(trust_quota=0))
client.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100).settle(60)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
client.close()
"""
MAX_RESIDENT_KIB = 80 * 1024


def test_a_client_at_rest_takes_little_memory(tmp_path: Path) -> None:
    done = run((sys.executable, "-c", REST), tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MAX_RESIDENT_KIB
