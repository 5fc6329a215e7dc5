"""`reconcile`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.ledger import open_ledger
from worker.cli.times import moment_ms
from worker.words import drift_line


def reconcile(
    since: Annotated[str | None, typer.Option(help="Only what moved since 30m, 12h, 7d ago or a date.")] = None,
    user: Annotated[int | None, typer.Option(help="Only this user's accounts and sessions.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each drift, one a line.")] = False,
) -> None:
    """Prove that accounts, sessions and ledger agree. Prints each drift, and exits 1 if any; repairs nothing.

    Example: python -m worker reconcile --since 1d
    """
    found = 0
    with open_ledger() as ledger:
        for drift in ledger.drifts(moment_ms("--since", since), user):
            found += 1
            if as_json:
                print(json.dumps({**asdict(drift), "difference": drift.difference}))
            else:
                print(drift_line(drift))
    if not found and not as_json:
        print("no drift: every account and every session adds up")
    raise typer.Exit(1 if found else 0)
