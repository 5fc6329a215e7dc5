"""Refuses to start, in one clear line, what could not work."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from config.settings import Settings, SettingsError, load
from relay_billing import migrations
from relay_billing.store.drivers import engine_of, shown
from worker.masking import SHORTEST_SECRET, masked, secrets_of


class Refusal(SystemExit):
    """Ends the process with one line on standard error, and exit code 2."""

    def __init__(self, problem: str) -> None:
        print(f"relay-billing: {masked(problem)}", file=sys.stderr)
        super().__init__(2)


def settings() -> Settings:
    """The settings, and the folders that they name; or a Refusal."""
    try:
        loaded = load()
    except SettingsError as error:
        raise Refusal(str(error)) from None
    _make_folder("BILLING_VAR_DIR", Path(loaded.var_dir))
    url = make_url(loaded.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        _make_folder("BILLING_DATABASE_URL", Path(url.database).parent)
    return loaded


def secrets(loaded: Settings) -> frozenset[str]:
    """What no line may show: the passwords of URLs, what is declared secret, and the webhook's path."""
    found = set(secrets_of((loaded.database_url, loaded.broker_url)))
    declared = [value for value in dict(loaded).values() if isinstance(value, SecretStr)]
    for entry in (entry.strip() for value in declared for entry in value.get_secret_value().split(",")):
        # Of `user:password` the user may be seen.
        found |= {entry, entry.partition(":")[2]}
    found.add(urlsplit(loaded.webhook_url).path.strip("/"))
    return frozenset(each for each in found if len(each) >= SHORTEST_SECRET)


def _make_folder(setting: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(f"{setting}: the folder {folder} can't be made: {error.strerror}") from None


def check_database(loaded: Settings) -> None:
    """Refuse when the database can't be reached or lacks a migration. Leaves no connection open: workers fork."""
    engine = engine_of(loaded.database_url)
    name = shown(loaded.database_url)
    try:
        with engine.connect() as connection:
            has, needs = migrations.current(connection), migrations.head()
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", error)).strip().split("\n")[0]
        raise Refusal(f"the database {name} (BILLING_DATABASE_URL) can't be reached: {cause}") from None
    finally:
        engine.dispose()
    if has != needs:
        raise Refusal(
            f"the database {name} is at migration {has or 'none'}, this code needs {needs}: "
            "run `python -m worker migrate`"
        )
