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
OPERATORS = ("config", "tasks", "worker", "pydantic", "structlog", "typer", "alembic", "prometheus_client", "flower")
LOOK = f"""
import sys
import relay_billing
import celery
assert celery._state.default_app is None, "a client must not make a current app"
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
