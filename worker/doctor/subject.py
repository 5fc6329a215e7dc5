"""What all checks look at."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import SecretStr

from relay_billing import migrations
from relay_billing.migrations import VERSION_TABLE
from worker.doctor.reading import Reading
from worker.doctor.tables import Tables

LAG_S = 6.0
"""Seconds after which a difference is looked at again: a relay's batch updates are written every 5 s."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What the operator asks about, beside the database."""

    timezone: str = "UTC"
    """`BILLING_TIMEZONE`."""
    null_counts_as_zero: bool = False
    """Whether the worker takes NULL for 0 in account tables."""
    redis_url: str = ""
    """Where the relay keeps its caches; empty: not looked at."""
    crypto_secret: SecretStr = field(default_factory=lambda: SecretStr(""))
    """The relay's CRYPTO_SECRET, for the names of the tokens' caches; empty: tokens are not compared."""
    lag_s: float = LAG_S
    clock: Callable[[], float] = time.time
    """Unix seconds, of this host."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An open database, its tables, and what is asked about it."""

    reading: Reading
    tables: Tables
    asked: Questions

    def revision(self) -> str | None:
        """The migration that the database is at; None: it was never migrated. Raises as `Reading.look`."""
        return self.reading.look(migrations.current) if VERSION_TABLE in self.tables.names else None
