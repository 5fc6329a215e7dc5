"""`health` and `drain`: the processes of this host."""

import json
import time
from typing import Annotated

import typer

from worker import checks, signs, startup

POLL_S = 0.2

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def health(
    role: Annotated[str, typer.Argument(help="worker or beat")] = "worker",
    live: Annotated[bool, typer.Option("--live", help="Only whether it lives; an outage does not fail this.")] = False,
    as_json: Json = False,
) -> None:
    """Whether the worker or beat of this host lives and can work. Exits 1 when it does not.

    Looked at: its sign of life (at most 30 s old), whether it takes jobs (worker only), the broker, the database and
    its migrations. Nothing is broadcast, and it takes less than a second. `--live`: the sign of life alone.

    Example: python -m worker health beat --json
    """
    if role not in ("worker", "beat"):
        raise startup.Refusal(f"role: must be worker or beat, got {role!r}")
    found = checks.run(startup.settings(), role, live_only=live)
    good = all(each.good for each in found)
    if as_json:
        listed = {each.name: {"good": each.good, "detail": each.detail} for each in found}
        print(json.dumps({"role": role, "healthy": good, "checks": listed}))
    else:
        for each in found:
            print(f"{role} {each.name}: {'ok' if each.good else 'NOT OK'}, {each.detail}")
    raise typer.Exit(0 if good else 1)


def drain(
    timeout: Annotated[int, typer.Option(help="Seconds to wait for their end.", min=0, max=3_600)] = 60,
    as_json: Json = False,
) -> None:
    """Have the workers of this host stop taking jobs, finish those in hand, and end. Exits 1 when one still runs.

    What they had taken and not begun goes back to the queue. A supervisor that restarts what ends has to be told
    first. SIGTERM does the same to one worker.

    Example: python -m worker drain --timeout 120
    """
    var_dir = startup.settings().var_dir
    asked = signs.workers(var_dir)
    signs.ask_to_drain(var_dir)
    deadline = time.monotonic() + timeout
    left = {each.pid for each in asked}
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        # Not by the process alone: one that has ended and waits for its parent to notice counts as ended.
        left &= {each.pid for each in signs.workers(var_dir)}
    if as_json:
        print(json.dumps({"ended": [each.pid for each in asked if each.pid not in left], "left": sorted(left)}))
    elif left:
        print(f"after {timeout} s these workers still run: {', '.join(map(str, sorted(left)))}")
    else:
        print(f"{len(asked)} workers ended" if asked else "no worker runs here")
    raise typer.Exit(1 if left else 0)
