"""Opens the ledger for one command, and ends in one clear line what can't be done."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from relay_billing import Ledger
from relay_billing.domain.errors import BillingError
from relay_billing.domain.money import usd
from relay_billing.store.drivers import engine_of
from worker import startup

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@contextmanager
def ledger() -> Iterator[Ledger]:
    """The ledger that the settings name, migrated; a BillingError inside ends the command with exit code 2."""
    settings = startup.settings()
    startup.check_database(settings)
    engine = engine_of(settings.database_url)
    try:
        yield Ledger(engine, settings.policy)
    except BillingError as error:
        raise startup.Refusal(str(error)) from None
    finally:
        engine.dispose()


def moment_ms(field: str, words: str | None) -> int | None:
    """Unix milliseconds of `30m`, `12h`, `7d` (so long ago) or of an ISO date; None stays None."""
    if words is None:
        return None
    if words[:-1].isdecimal() and words[-1:] in UNITS:
        then = datetime.now(UTC) - timedelta(seconds=int(words[:-1]) * UNITS[words[-1]])
    else:
        try:
            then = datetime.fromisoformat(words)
        except ValueError:
            raise startup.Refusal(f"{field}: must be like 30m, 12h, 7d or 2026-01-31, got {words!r}") from None
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return (then - EPOCH) // timedelta(milliseconds=1)


def shown_time(unix_ms: int | None) -> str:
    """A time as operators read it, in UTC."""
    return "" if unix_ms is None else (EPOCH + timedelta(milliseconds=unix_ms)).strftime("%Y-%m-%d %H:%M:%S")


def amount(quota: int) -> str:
    """Quota with its dollars."""
    return f"{quota:,} ({usd(quota)})"
