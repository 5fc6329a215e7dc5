"""`reconcile`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from relay_billing.domain.money import usd
from relay_billing.reconcile import Drift
from worker.cli.opening import ledger, moment_ms


def line_of(drift: Drift) -> str:
    """What does not add up, and by how much."""
    difference = f"{drift.difference:+,} ({usd(drift.difference)})"
    return f"{drift.what} {drift.id}: expected {drift.expected:,}, found {drift.found:,}, difference {difference}"


def reconcile(
    since: Annotated[str | None, typer.Option(help="Only what moved since 30m, 12h, 7d ago or a date.")] = None,
    user: Annotated[int | None, typer.Option(help="Only this user's accounts and sessions.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each drift, one a line.")] = False,
) -> None:
    """Prove the books. Exits 1 when something does not add up, with a line for each; repairs nothing.

    Example: python -m worker reconcile --since 1d
    """
    found = 0
    with ledger() as books:
        for drift in books.drifts(moment_ms("--since", since), user):
            found += 1
            if as_json:
                print(json.dumps({**asdict(drift), "difference": drift.difference}))
            else:
                print(line_of(drift))
    if not found and not as_json:
        print("no drift: every account and every session adds up")
    raise typer.Exit(1 if found else 0)
