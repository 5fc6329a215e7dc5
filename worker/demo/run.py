"""One run of the demo, from empty tables to the proof."""

import os
import signal
import time
from pathlib import Path
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine

from config.settings import Settings
from relay_billing import BillingClient, Ledger
from relay_billing.store.drivers import engine_of
from worker.demo import relay, report, scene, site
from worker.demo.balances import balances
from worker.demo.report import Outcome
from worker.stop import Stop

VAR = Path("var")
DRAIN_TIMEOUT_S = 40.0


def run(console: Console, requests: int) -> Outcome:
    """Relay `requests` requests in ./var, showing progress. Raises KeyboardInterrupt after SIGINT or SIGTERM."""
    stop = Stop(signal.SIGINT, signal.SIGTERM)
    VAR.mkdir(exist_ok=True)
    settings = site.settings_of(VAR)
    env = site.environment(settings)
    os.environ.update({key: value for key, value in env.items() if key.startswith("BILLING_")})
    engine = engine_of(settings.database_url)
    try:
        return _play(console, engine, settings, env, requests, stop)
    finally:
        engine.dispose()


def _play(
    console: Console, engine: Engine, settings: Settings, env: dict[str, str], requests: int, stop: Stop
) -> Outcome:
    cast = scene.prepare(engine)
    prefix = f"demo-{uuid4().hex[:8]}-"
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        starting = progress.add_task("worker and beat start", total=1)
        with site.processes(env, VAR):
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
    found = balances(engine, cast)
    drifts = Ledger(engine, settings.policy).reconcile()
    counts = {name: tally.counts() for name, tally in tallies.items()}
    return Outcome(counts, found, drifts, report.unaccounted(counts, found), left)
