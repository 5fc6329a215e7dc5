"""`drain`: ends the workers of this host."""

import json
import time
from typing import Annotated

import typer

from config import startup
from worker.cli.options import Json
from worker.process.state import WorkerState, ask_to_drain

POLL_S = 0.2


def drain(
    timeout: Annotated[int, typer.Option(help="Seconds to wait for their end.", min=0, max=3_600)] = 60,
    as_json: Json = False,
) -> None:
    """Have the workers of this host stop taking jobs, finish those in hand, and end. Exits 1 when one still runs.

    Jobs that they had taken and not begun go back to the queue. Stop a supervisor that would restart them first.
    SIGTERM does the same to one worker.

    Example: python -m worker drain --timeout 120
    """
    var_dir = startup.settings().var_dir
    asked = WorkerState.all_here(var_dir)
    ask_to_drain(var_dir)
    deadline = time.monotonic() + timeout
    left = {each.pid for each in asked}
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        # Not by the process alone: one that has ended and waits for its parent to collect it counts as ended.
        left &= {each.pid for each in WorkerState.all_here(var_dir)}
    if as_json:
        print(json.dumps({"ended": [each.pid for each in asked if each.pid not in left], "left": sorted(left)}))
    elif left:
        print(f"after {timeout} s these workers still run: {', '.join(map(str, sorted(left)))}")
    else:
        print(f"{len(asked)} workers ended" if asked else "no worker runs here")
    raise typer.Exit(1 if left else 0)
