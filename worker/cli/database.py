"""`migrate`."""

import json

from sqlalchemy.exc import SQLAlchemyError

from config import startup
from config.refusal import Refusal
from relay_billing import migrations
from relay_billing.store.allowance import lengthened
from relay_billing.store.drivers import engine_of, shown
from relay_billing.store.failures import cause_of
from relay_billing.store.waits import MIGRATION_TIMEOUT_S
from worker.cli.options import Json


def migrate(as_json: Json = False) -> None:
    """Bring the tables to what this code needs. Account tables are made only where they are missing.

    Example: BILLING_DATABASE_URL=postgresql://billing@db/billing python -m worker migrate
    """
    settings = startup.settings()
    engine = engine_of(settings.database_url)
    name = shown(settings.database_url)
    try:
        with engine.begin() as connection, lengthened(connection, MIGRATION_TIMEOUT_S):
            before = migrations.current(connection)
            migrations.upgrade(connection)
    except SQLAlchemyError as error:
        raise Refusal(f"{name} (BILLING_DATABASE_URL) could not be migrated: {cause_of(error)}") from None
    finally:
        engine.dispose()
    if as_json:
        print(json.dumps({"database": name, "from": before, "to": migrations.head()}))
    elif before == migrations.head():
        print(f"{name} is at migration {before} already")
    else:
        print(f"{name}: migrated from {before or 'nothing'} to {migrations.head()}")
