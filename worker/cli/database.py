"""`migrate`."""

import json

from sqlalchemy.exc import SQLAlchemyError

from relay_billing import migrations
from relay_billing.store.drivers import engine_of, shown
from worker import startup
from worker.cli.opening import Json


def migrate(as_json: Json = False) -> None:
    """Bring the tables to what this code needs. Account tables are made only where they are missing.

    Example: BILLING_DATABASE_URL=postgresql://billing@db/billing python -m worker migrate
    """
    settings = startup.settings()
    engine = engine_of(settings.database_url)
    name = shown(settings.database_url)
    try:
        with engine.begin() as connection:
            before = migrations.current(connection)
            migrations.upgrade(connection)
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", error)).strip().split("\n")[0]
        raise startup.Refusal(f"{name} (BILLING_DATABASE_URL) could not be migrated: {cause}") from None
    finally:
        engine.dispose()
    if as_json:
        print(json.dumps({"database": name, "from": before, "to": migrations.head()}))
    elif before == migrations.head():
        print(f"{name} is at migration {before} already")
    else:
        print(f"{name}: migrated from {before or 'nothing'} to {migrations.head()}")
