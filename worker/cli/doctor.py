"""`doctor`: looks at a database before our processes run on it."""

import json
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config import startup
from config.masking import masked, secrets_of
from config.refusal import Refusal
from config.settings import SettingsError, load
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.ownership import Accounts
from relay_billing.store.drivers import shown
from worker.cli.options import Json
from worker.doctor.examination import examine
from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Questions

STATEMENT_S = 10.0
LONGEST_S = 3_600.0
WIDTH_OF_STATUS, WIDTH_OF_NAME = 6, 12


def _line(name: str, finding: Finding) -> Table:
    line = Table.grid(padding=(0, 1))
    line.add_column(width=WIDTH_OF_STATUS)
    line.add_column(width=WIDTH_OF_NAME)
    line.add_column(overflow="fold")
    said = Text(finding.sentence)
    if finding.hint:
        said.append(f"\n{finding.hint}", style="dim")
    line.add_row(Text(finding.status, style=f"bold {finding.status}"), Text(name, style="bold"), said)
    return line


def _print(name: str, finding: Finding, console: Console) -> None:
    if console.is_terminal:
        console.print(_line(name, finding))
        return
    words = f"{finding.sentence}. {finding.hint}" if finding.hint else finding.sentence
    print(f"{finding.status:<{WIDTH_OF_STATUS}} {name:<{WIDTH_OF_NAME}} {words}")


def _shown(found: Iterable[tuple[str, Finding]], secrets: frozenset[str], *, as_json: bool) -> dict[Status, int]:
    """Print each finding as it comes; passwords are masked. How many there are of each status."""
    counts, console, listed = dict.fromkeys(Status, 0), Console(), []
    for name, bare in found:
        finding = Finding(bare.status, masked(bare.sentence, secrets), masked(bare.hint, secrets))
        counts[finding.status] += 1
        if as_json:
            listed.append(
                {"status": finding.status, "name": name, "sentence": finding.sentence, "hint": finding.hint or None}
            )
        else:
            _print(name, finding, console)
    if as_json:
        print(json.dumps(listed))
    else:
        print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return counts


def doctor(
    database: Annotated[str, typer.Option(help="Its URL; unset: BILLING_DATABASE_URL.")] = "",
    redis: Annotated[str, typer.Option(help="The relay's Redis; unset: BILLING_NEW_API_REDIS_URL.")] = "",
    seconds: Annotated[float, typer.Option(min=0.1, max=LONGEST_S, help="For each statement.")] = STATEMENT_S,
    as_json: Json = False,
) -> None:
    """Look whether billing can run on a database, ours or a relay's. Changes nothing.

    A line for each thing looked at: red, where billing would fail or go wrong; yellow, what to know or do; green.
    Exits 1 where there is red, 2 when the database can't be reached. A password is safer in the settings than here.

    Example: BILLING_DATABASE_URL=mysql://billing@db/new_api python -m worker doctor --redis redis://cache
    """
    try:
        loaded = load()
    except SettingsError as error:
        raise Refusal(str(error)) from None
    url, redis_url = database or loaded.database_url, redis or loaded.new_api_redis_url
    secrets = startup.secrets(loaded) | secrets_of((url, redis_url))
    asked = Questions(loaded.timezone, loaded.accounts is Accounts.NEW_API, redis_url, loaded.new_api_crypto_secret)
    try:
        name = shown(url)
    except InvalidRequest as error:
        raise Refusal(f"BILLING_{error.field.upper()}: {error.problem}") from None
    if not as_json:
        print(f"doctor of {name}")
    counts = _shown(examine(url, asked, seconds), secrets, as_json=as_json)
    raise typer.Exit(1 if counts[Status.RED] else 0)
