"""`demo`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from worker.cli.options import Json
from worker.demo import report
from worker.demo.run import run


def demo(
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="Requests to relay.")] = 400, as_json: Json = False
) -> None:
    """Relay some hundreds of requests through a real worker, on SQLite and files, and prove every balance.

    Needs no server and ignores all settings: it works in ./var. Exits 1 if a single unit of quota is unaccounted for.

    Example: python -m worker demo --requests 1000
    """
    console = Console(stderr=as_json)
    try:
        outcome = run(console, requests)
    except KeyboardInterrupt:
        console.print("stopped; the demo's worker and beat are ended")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(asdict(outcome) | {"balanced": outcome.balanced}))
    else:
        report.show(console, outcome)
    raise typer.Exit(0 if outcome.balanced else 1)
