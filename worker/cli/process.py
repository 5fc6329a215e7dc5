"""`health`."""

from typing import Annotated

import typer

from worker import startup
from worker.health import STALE_AFTER_S, age_s, heartbeat_file


def health(role: Annotated[str, typer.Argument(help="worker or beat")] = "worker") -> None:
    """Whether the worker or beat of this host lives. Exits 1 when its last sign of life is over 30 s old.

    Example: python -m worker health beat
    """
    if role not in ("worker", "beat"):
        raise startup.Refusal(f"role: must be worker or beat, got {role!r}")
    age = age_s(heartbeat_file(startup.settings().var_dir, role))
    alive = age is not None and age < STALE_AFTER_S
    seen = "never" if age is None else f"{age:.0f} s ago"
    print(f"{role}: {'alive' if alive else 'not alive'}, last sign of life {seen}")
    raise typer.Exit(0 if alive else 1)
