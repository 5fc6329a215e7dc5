"""`api-keys`: who may call the HTTP door."""

import json
import secrets
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from config.refusal import Refusal
from relay_billing.domain.api_keys import KEY_PREFIX, ApiKey, Scope, digest_of
from relay_billing.flows import api_keys
from worker.cli.ledger import open_ledger
from worker.cli.options import Json
from worker.cli.shown import table_of
from worker.cli.times import end_ms
from worker.words import shown_time

KEY_BYTES = 32
"""Random bytes of a key."""

app = typer.Typer(help="Keys of the HTTP door: make, list, revoke.", no_args_is_help=True)


def _state(key: ApiKey, now_ms: int) -> str:
    return "active" if key.active(now_ms) else "expired" if key.revoked_at is None else "revoked"


def _table(found: list[ApiKey], now_ms: int) -> Table:
    table = table_of("API keys", ("name", "scopes", "state", "made (UTC)", "ends (UTC)"), ())
    for each in found:
        end = each.expires_at if each.revoked_at is None else each.revoked_at
        times = (shown_time(each.created_at), shown_time(end) or "never")
        table.add_row(each.name, ", ".join(each.scopes), _state(each, now_ms), *times)
    return table


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is called: the relay that gets it.")],
    scope: Annotated[
        list[Scope], typer.Option(help="What it may do: `hold`, `end` or `read`; may be given more than once.")
    ],
    expires_in: Annotated[str | None, typer.Option(help="When it ends, as `12h` or `90d`; unset: never.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this one time: the database keeps only its SHA-256.

    Example: python -m worker api-keys create gateway --scope hold --scope end --expires-in 90d
    """
    expires_at = end_ms("--expires-in", expires_in)
    key = f"{KEY_PREFIX}{secrets.token_urlsafe(KEY_BYTES)}"
    with open_ledger() as ledger:
        made = ledger.run(api_keys.create, name, scope, digest_of(key.encode()), expires_at)
    if as_json:
        print(json.dumps({"key": key, **asdict(made)}))
        return
    print(key)
    end = f"until {shown_time(made.expires_at)} UTC" if made.expires_at else "without an end"
    print(f"may {', '.join(made.scopes)}, {end}; it is not shown again")


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """List all keys, the oldest first, expired and revoked ones included. The keys themselves are nowhere kept.

    Example: python -m worker api-keys list
    """
    with open_ledger() as ledger:
        found = ledger.read(api_keys.find_all)
    now_ms = time.time_ns() // 1_000_000
    if as_json:
        print(json.dumps([{**asdict(each), "state": _state(each, now_ms)} for each in found]))
    elif found:
        Console().print(_table(found, now_ms))
    else:
        print("no API keys")


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The name, as `list` shows it.")], as_json: Json = False) -> None:
    """Revoke a key. Doors refuse it within 5 seconds; its name is free for another.

    Example: python -m worker api-keys revoke gateway
    """
    with open_ledger() as ledger:
        if not ledger.run(api_keys.revoke, name):
            raise Refusal(f"no key {name!r} is there to revoke; `api-keys list` shows them")
    print(json.dumps({"name": name, "revoked": True}) if as_json else f"{name}: revoked")
