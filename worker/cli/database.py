"""`migrate`."""

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from relay_billing import migrations
from relay_billing.store.drivers import engine_of
from worker import startup


def migrate() -> None:
    """Bring the tables to what this code needs. Account tables are made only where they are missing.

    Example: BILLING_DATABASE_URL=postgresql://billing@db/billing python -m worker migrate
    """
    settings = startup.settings()
    engine = engine_of(settings.database_url)
    shown = make_url(settings.database_url).render_as_string(hide_password=True)
    try:
        with engine.begin() as connection:
            before = migrations.current(connection)
            migrations.upgrade(connection)
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", error)).strip().split("\n")[0]
        raise startup.Refusal(f"{shown} (BILLING_DATABASE_URL) could not be migrated: {cause}") from None
    finally:
        engine.dispose()
    if before == migrations.head():
        print(f"{shown} is at migration {before} already")
    else:
        print(f"{shown}: migrated from {before or 'nothing'} to {migrations.head()}")
