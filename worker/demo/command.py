"""`demo`."""

import os
import signal
import time
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from config.settings import Settings
from relay_billing import BillingClient, Ledger
from relay_billing.store.drivers import engine_of
from worker.demo import relay, report, scene

VAR = Path("var")
DRAIN_TIMEOUT_S = 40.0


def demo(requests: Annotated[int, typer.Option(min=1, max=10_000, help="Requests to relay.")] = 400) -> None:
    """Relay some hundreds of requests through a real worker, on SQLite and files, and prove the books.

    Needs no server and ignores all settings: it works in ./var. Exits 1 if a single unit of quota is unaccounted for.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    VAR.mkdir(exist_ok=True)
    console = Console()
    settings = scene.settings_of(VAR)
    env = scene.environment(settings)
    os.environ.update({key: value for key, value in env.items() if key.startswith("BILLING_")})
    engine = engine_of(settings.database_url)
    try:
        balanced = _play(console, settings, env, requests)
    except KeyboardInterrupt:
        console.print("stopped; the demo's worker and beat are ended")
        raise typer.Exit(130) from None
    finally:
        engine.dispose()
    raise typer.Exit(0 if balanced else 1)


def _play(console: Console, settings: Settings, env: dict[str, str], requests: int) -> bool:
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
            tallies = relay.play(client, cast, prefix, requests, lambda: progress.advance(relaying))
            client.close()
            waiting = scene.open_sessions(engine, prefix)
            closing = progress.add_task("sessions closed by the worker", total=waiting)
            deadline = time.monotonic() + DRAIN_TIMEOUT_S
            while (left := scene.open_sessions(engine, prefix)) and time.monotonic() < deadline:
                progress.update(closing, completed=waiting - left)
                time.sleep(0.1)
            progress.update(closing, completed=waiting - left)
    found = report.balances(engine, cast)
    report.show(console, tallies, found)
    drifts = Ledger(engine, settings.policy).reconcile()
    engine.dispose()
    return report.verdict(console, drifts, report.unaccounted(tallies, found), left)
