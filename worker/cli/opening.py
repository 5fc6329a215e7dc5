"""Opens the ledger for one command, and ends in one clear line what can't be done."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from sqlalchemy import Engine

from config.settings import Settings
from relay_billing import Ledger
from relay_billing.domain.errors import BillingError
from relay_billing.domain.money import usd
from relay_billing.history import History
from relay_billing.store.drivers import engine_of
from worker import startup

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@contextmanager
def _engine() -> Iterator[tuple[Engine, Settings]]:
    """The database that the settings name, migrated; a BillingError inside ends the command with exit code 2."""
    settings = startup.settings()
    startup.check_database(settings)
    engine = engine_of(settings.database_url)
    try:
        yield engine, settings
    except BillingError as error:
        raise startup.Refusal(str(error)) from None
    finally:
        engine.dispose()


@contextmanager
def ledger() -> Iterator[Ledger]:
    """The ledger that the settings name; what it raises ends the command with exit code 2."""
    with _engine() as (engine, settings):
        yield Ledger(engine, settings.policy)


@contextmanager
def history() -> Iterator[History]:
    """What the books say; what it raises ends the command with exit code 2."""
    with _engine() as (engine, _):
        yield History(engine)


def ask(question: str, yes: bool) -> None:
    """Go on only where the operator agrees, or has said `--yes`; else nothing is done, exit code 1."""
    if not yes:
        typer.confirm(question, abort=True, err=True)


def moment_ms(field: str, words: str | None) -> int | None:
    """Unix milliseconds of `30m`, `12h`, `7d` (so long ago) or of an ISO date; None stays None."""
    if words is None:
        return None
    try:
        if words[:-1].isdecimal() and words[-1:] in UNITS:
            then = datetime.now(UTC) - timedelta(seconds=int(words[:-1]) * UNITS[words[-1]])
        else:
            then = datetime.fromisoformat(words)
    except (ValueError, OverflowError):
        raise startup.Refusal(f"{field}: must be like 30m, 12h, 7d or 2026-01-31, got {words!r}") from None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return (then - EPOCH) // timedelta(milliseconds=1)


def shown_time(unix_ms: int | None) -> str:
    """A time as operators read it, in UTC."""
    return "" if unix_ms is None else (EPOCH + timedelta(milliseconds=unix_ms)).strftime("%Y-%m-%d %H:%M:%S")


def amount(quota: int) -> str:
    """Quota with its dollars."""
    return f"{quota:,} ({usd(quota)})"
