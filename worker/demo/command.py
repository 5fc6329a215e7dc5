"""`demo`."""

import json
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from config.settings import Settings
from relay_billing import BillingClient, Ledger
from relay_billing.store.drivers import engine_of
from worker.cli.opening import Json
from worker.demo import relay, report, scene
from worker.demo.report import Outcome

VAR = Path("var")
DRAIN_TIMEOUT_S = 40.0


def demo(
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="Requests to relay.")] = 400, as_json: Json = False
) -> None:
    """Relay some hundreds of requests through a real worker, on SQLite and files, and prove the books.

    Needs no server and ignores all settings: it works in ./var. Exits 1 if a single unit of quota is unaccounted for.

    Example: python -m worker demo --requests 1000
    """
    stop = Stop()
    VAR.mkdir(exist_ok=True)
    console = Console(stderr=as_json)
    settings = scene.settings_of(VAR)
    env = scene.environment(settings)
    os.environ.update({key: value for key, value in env.items() if key.startswith("BILLING_")})
    engine = engine_of(settings.database_url)
    try:
        outcome = _play(console, settings, env, requests, stop)
    except KeyboardInterrupt:
        console.print("stopped; the demo's worker and beat are ended")
        raise typer.Exit(130) from None
    finally:
        engine.dispose()
    if as_json:
        print(json.dumps(asdict(outcome) | {"balanced": outcome.balanced}))
    else:
        report.show(console, outcome)
    raise typer.Exit(0 if outcome.balanced else 1)


class Stop:
    """Heeds SIGINT and SIGTERM: at once, or at the next step where Python has swallowed the exception.

    It does so when a signal comes while an object is collected.
    """

    def __init__(self) -> None:
        self._asked = False
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._heard)

    def _heard(self, *_: object) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt where a signal has come."""
        if self._asked:
            raise KeyboardInterrupt


def _play(console: Console, settings: Settings, env: dict[str, str], requests: int, stop: Stop) -> Outcome:
    engine = engine_of(settings.database_url)
    cast = scene.prepare(engine)
    prefix = f"demo-{uuid4().hex[:8]}-"
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        starting = progress.add_task("worker and beat start", total=1)
        with scene.processes(env, VAR):
            progress.update(starting, completed=1)
            relaying = progress.add_task("requests relayed", total=requests)
            client = BillingClient(settings.database_url, settings.broker_url, settings.policy)

            def relayed() -> None:
                stop.check()
                progress.advance(relaying)

            tallies = relay.play(client, cast, prefix, requests, relayed)
            client.close()
            waiting = scene.open_sessions(engine, prefix)
            closing = progress.add_task("sessions closed by the worker", total=waiting)
            deadline = time.monotonic() + DRAIN_TIMEOUT_S
            while (left := scene.open_sessions(engine, prefix)) and time.monotonic() < deadline:
                stop.check()
                progress.update(closing, completed=waiting - left)
                time.sleep(0.1)
            progress.update(closing, completed=waiting - left)
    found = report.balances(engine, cast)
    drifts = Ledger(engine, settings.policy).reconcile()
    engine.dispose()
    counts = {name: tally.counts() for name, tally in tallies.items()}
    return Outcome(counts, found, drifts, report.unaccounted(counts, found), left)
