"""Amounts, times and drifts as operators read them."""

from datetime import UTC, datetime, timedelta

from relay_billing.domain.money import usd
from relay_billing.flows.reconcile import Drift

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def amount(quota: int) -> str:
    """Quota and its dollars, as `250,000 ($0.500000)`."""
    return f"{quota:,} ({usd(quota)})"


def shown_time(unix_ms: int | None) -> str:
    """A time in UTC, as `2026-01-31 12:00:00`; None becomes an empty text."""
    return "" if unix_ms is None else (EPOCH + timedelta(milliseconds=unix_ms)).strftime("%Y-%m-%d %H:%M:%S")


def drift_line(drift: Drift) -> str:
    """What does not add up, and by how much; what others have changed is `outside`."""
    difference = f"{drift.difference:+,} ({usd(drift.difference)})"
    outside = "outside " if drift.outside else ""
    return (
        f"{outside}{drift.what} {drift.id}: expected {drift.expected:,}, found {drift.found:,}, difference {difference}"
    )
