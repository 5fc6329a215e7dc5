"""`reconcile`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from relay_billing import Ledger
from relay_billing.domain.errors import BillingError
from relay_billing.domain.money import usd
from relay_billing.reconcile import Drift
from relay_billing.store.drivers import engine_of
from worker import startup


def table_of(drifts: list[Drift]) -> Table:
    """A line for each thing that does not add up."""
    table = Table("what", "id", title="Drift")
    for column in ("expected", "found", "difference"):
        table.add_column(column, justify="right")
    for drift in drifts:
        difference = f"{drift.difference:+,} ({usd(drift.difference)})"
        table.add_row(drift.what, drift.id, f"{drift.expected:,}", f"{drift.found:,}", difference)
    return table


def reconcile(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False) -> None:
    """Prove the books. Exits 1 when something does not add up; repairs nothing.

    Example: python -m worker reconcile --json
    """
    settings = startup.settings()
    startup.check_database(settings)
    engine = engine_of(settings.database_url)
    try:
        drifts = Ledger(engine, settings.policy).reconcile()
    except BillingError as error:
        raise startup.Refusal(str(error)) from None
    finally:
        engine.dispose()
    if as_json:
        print(json.dumps([{**asdict(drift), "difference": drift.difference} for drift in drifts]))
    elif drifts:
        Console().print(table_of(drifts))
    else:
        print("no drift: every account and every session adds up")
    raise typer.Exit(1 if drifts else 0)
