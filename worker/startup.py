"""Refuses to start, in one clear line, what could not work."""

import sys
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from config.settings import Settings, SettingsError, load
from relay_billing import migrations
from relay_billing.store.drivers import engine_of


class Refusal(SystemExit):
    """Ends the process with one line on standard error, and exit code 2."""

    def __init__(self, problem: str) -> None:
        print(f"relay-billing: {problem}", file=sys.stderr)
        super().__init__(2)


def settings() -> Settings:
    """The settings, and the folders that they name; or a Refusal."""
    try:
        loaded = load()
    except SettingsError as error:
        raise Refusal(str(error)) from None
    Path(loaded.var_dir).mkdir(parents=True, exist_ok=True)
    url = make_url(loaded.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    return loaded


def check_database(loaded: Settings) -> None:
    """Refuse when the database can't be reached or lacks a migration. Leaves no connection open: workers fork."""
    engine = engine_of(loaded.database_url)
    shown = make_url(loaded.database_url).render_as_string(hide_password=True)
    try:
        with engine.connect() as connection:
            has, needs = migrations.current(connection), migrations.head()
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", error)).strip().split("\n")[0]
        raise Refusal(f"the database {shown} (BILLING_DATABASE_URL) can't be reached: {cause}") from None
    finally:
        engine.dispose()
    if has != needs:
        raise Refusal(
            f"the database {shown} is at migration {has or 'none'}, this code needs {needs}: "
            "run `python -m worker migrate`"
        )
