"""What is checked before a process starts: settings, folders, database. A failure is one clear line."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from config.masking import SHORTEST_SECRET, secrets_of
from config.refusal import Refusal
from config.settings import Settings, SettingsError, load
from relay_billing import migrations
from relay_billing.broker.folder import filesystem_folder
from relay_billing.store.drivers import engine_of, shown, url_of
from relay_billing.store.failures import cause_of


def settings() -> Settings:
    """Load the settings and make the folders that they name. Raises Refusal."""
    try:
        loaded = load()
    except SettingsError as error:
        raise Refusal(str(error)) from None
    _make_folder("BILLING_VAR_DIR", Path(loaded.var_dir))
    url = url_of(loaded.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        _make_folder("BILLING_DATABASE_URL", Path(url.database).parent)
    if loaded.broker_url.startswith("filesystem"):
        _make_folder("BILLING_BROKER_URL", filesystem_folder(loaded.broker_url))
    return loaded


def secrets(loaded: Settings) -> frozenset[str]:
    """What no line may show: passwords in URLs, settings declared secret, and the path of the webhook's URL."""
    found = set(secrets_of((loaded.database_url, loaded.broker_url)))
    declared = [value for value in dict(loaded).values() if isinstance(value, SecretStr)]
    for entry in (entry.strip() for value in declared for entry in value.get_secret_value().split(",")):
        # In `user:password` the user alone is no secret.
        found |= {entry, entry.partition(":")[2]}
    found.add(urlsplit(loaded.webhook_url).path.strip("/"))
    return frozenset(each for each in found if len(each) >= SHORTEST_SECRET)


def _make_folder(setting: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(f"{setting}: the folder {folder} can't be made: {error.strerror}") from None


def check_database(loaded: Settings) -> None:
    """Raise Refusal if the database can't be reached or lacks a migration. Leaves no connection open: workers fork."""
    engine = engine_of(loaded.database_url)
    name = shown(loaded.database_url)
    try:
        with engine.connect() as connection:
            has, needs = migrations.current(connection), migrations.head()
    except SQLAlchemyError as error:
        raise Refusal(f"the database {name} (BILLING_DATABASE_URL) can't be reached: {cause_of(error)}") from None
    finally:
        engine.dispose()
    if has != needs:
        raise Refusal(
            f"the database {name} is at migration {has or 'none'}, this code needs {needs}: "
            "run `python -m worker migrate`"
        )
