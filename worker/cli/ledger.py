"""The ledger in the settings' database, open for one command; an error ends the command in one clear line."""

from collections.abc import Iterator
from contextlib import contextmanager

from config import startup
from config.refusal import Refusal
from relay_billing import Ledger
from relay_billing.domain.errors import BillingError
from relay_billing.store.drivers import engine_of


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """The ledger; its database is checked first. A BillingError inside becomes a Refusal."""
    settings = startup.settings()
    startup.check_database(settings)
    engine = engine_of(settings.database_url)
    try:
        yield Ledger(engine, settings.policy)
    except BillingError as error:
        raise Refusal(str(error)) from None
    finally:
        engine.dispose()
