"""`health`: whether a process of this host can work."""

import json
from typing import Annotated

import typer

from config import startup
from config.refusal import Refusal
from worker.cli.options import Json
from worker.process.health import run as run_checks


def health(
    role: Annotated[str, typer.Argument(help="worker or beat")] = "worker",
    live: Annotated[bool, typer.Option("--live", help="Only its heartbeat; an outage does not fail this.")] = False,
    as_json: Json = False,
) -> None:
    """Whether the worker or beat of this host lives and can work. Exits 1 when it does not.

    Checked: its heartbeat (at most 30 s old), whether it takes jobs and sweeps come through (worker only), the
    broker, the database and its migrations. Broadcasts nothing, and takes less than a second. `--live`: the heartbeat
    alone.

    Example: python -m worker health beat --json
    """
    if role not in ("worker", "beat"):
        raise Refusal(f"role: must be worker or beat, got {role!r}")
    found = run_checks(startup.settings(), role, live_only=live)
    good = all(each.good for each in found)
    if as_json:
        listed = {each.name: {"good": each.good, "detail": each.detail} for each in found}
        print(json.dumps({"role": role, "healthy": good, "checks": listed}))
    else:
        for each in found:
            print(f"{role} {each.name}: {'ok' if each.good else 'NOT OK'}, {each.detail}")
    raise typer.Exit(0 if good else 1)
