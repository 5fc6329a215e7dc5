"""`migrate`, and `uninstall`, which takes back what it made."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from config import startup
from config.refusal import Refusal
from config.settings import Settings
from relay_billing import Ledger, migrations
from relay_billing.flows.overview import overview
from relay_billing.store.allowance import lengthened
from relay_billing.store.drivers import engine_of, shown
from relay_billing.store.failures import cause_of
from relay_billing.store.waits import MIGRATION_TIMEOUT_S
from worker.cli.options import Json, Yes, ask
from worker.words import amount


@contextmanager
def _opened(settings: Settings, done: str) -> Iterator[Engine]:
    """The database; an error of it ends the command in one line. `done`: what could not be done with it."""
    engine = engine_of(settings.database_url)
    try:
        yield engine
    except SQLAlchemyError as error:
        name = shown(settings.database_url)
        raise Refusal(f"{name} (BILLING_DATABASE_URL) could not be {done}: {cause_of(error)}") from None
    finally:
        engine.dispose()


@contextmanager
def _changing(engine: Engine) -> Iterator[Connection]:
    """One transaction whose statements may take long."""
    with engine.begin() as connection, lengthened(connection, MIGRATION_TIMEOUT_S):
        yield connection


def migrate(as_json: Json = False) -> None:
    """Bring the tables to what this code needs. Account tables are made only where they are missing.

    Example: BILLING_DATABASE_URL=postgresql://billing@db/billing python -m worker migrate
    """
    settings = startup.settings()
    name = shown(settings.database_url)
    with _opened(settings, "migrated") as engine, _changing(engine) as connection:
        before = migrations.current(connection)
        migrations.upgrade(connection)
    if as_json:
        print(json.dumps({"database": name, "from": before, "to": migrations.head()}))
    elif before == migrations.head():
        print(f"{name} is at migration {before} already")
    else:
        print(f"{name}: migrated from {before or 'nothing'} to {migrations.head()}")


def uninstall(yes: Yes = False, as_json: Json = False) -> None:
    """Drop all tables of ours, the ledger too; account tables and balances stay. Asks first.

    Refused while a hold, an intent or a dead letter is open: each is money that somebody waits for. Stop relays, doors,
    workers and beat before.

    Example: python -m worker uninstall --yes
    """
    settings = startup.settings()
    name = shown(settings.database_url)
    with _opened(settings, "uninstalled") as engine:
        with engine.connect() as connection:
            there = migrations.installed(connection)
        if not there:
            raise Refusal(f"{name} has no table of ours: nothing was done")
        if migrations.complete(there):
            # Else an earlier run was cut off, where the database has no transactions for this: it had asked.
            _refuse_open(engine, settings)
            ask(f"Drop {len(there)} tables of {name}? Ledger and sessions are gone then; balances stay", yes)
        with _changing(engine) as connection:
            dropped = migrations.uninstall(connection)
    if as_json:
        print(json.dumps({"database": name, "dropped": dropped}))
    else:
        print(f"{name}: dropped {', '.join(dropped)}; account tables are as they were")


def _refuse_open(engine: Engine, settings: Settings) -> None:
    startup.check_database(settings)
    found = Ledger(engine, settings.policy).read(overview)
    kinds = {"open holds": found.holds, "waiting intents": found.intents, "open dead letters": found.dead_letters}
    still = [f"{each.count:,} {kind} of {amount(each.quota)}" for kind, each in kinds.items() if each.count]
    if still:
        raise Refusal(f"there are {', '.join(still)}: nothing was dropped; `status` shows them, workers end them")
