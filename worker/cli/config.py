"""`config show`."""

import json

import typer
from rich.console import Console

from config import startup
from config.masking import masked
from config.refusal import Refusal
from config.settings import Settings, SettingsError, load
from worker.cli.options import Json
from worker.cli.shown import table_of

app = typer.Typer(help="The settings in use.", no_args_is_help=True)


def _shown(value: object, secrets: frozenset[str]) -> object:
    """The value with passwords masked; a SecretStr is masked already."""
    return masked(value, secrets) if isinstance(value, str) else value


@app.callback()
def _group() -> None:
    """The settings in use."""


@app.command()
def show(as_json: Json = False) -> None:
    """Show every setting, its value and where it comes from; passwords are masked. Opens no database.

    Example: BILLING_HOLD_TTL=600 python -m worker config show
    """
    try:
        loaded, origins = load(), Settings.sources()
    except SettingsError as error:
        raise Refusal(str(error)) from None
    values = loaded.model_dump(mode="json")
    secrets = startup.secrets(loaded)
    rows = {f"BILLING_{name.upper()}": (_shown(value, secrets), origins[name]) for name, value in values.items()}
    if as_json:
        print(json.dumps({name: {"value": value, "source": source} for name, (value, source) in rows.items()}))
        return
    table = table_of("Settings", ("setting", "value", "from"), ())
    for name, (value, source) in rows.items():
        table.add_row(
            name, "" if value is None else str(value).lower() if isinstance(value, bool) else str(value), source
        )
    Console().print(table)
