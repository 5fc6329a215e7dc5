"""The processes of the demo, worker and beat, and the settings that they run with."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from config.settings import Settings
from worker.process.heartbeat import Heartbeat

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


def settings_of(var: Path) -> Settings:
    """The defaults, whatever the environment says: the demo must never meet a database in use."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    own = {"sweep_interval": 1, "intent_grace": 5, "metrics_port": 0}
    return Settings.model_validate({**defaults, "var_dir": str(var), **own})


def environment(settings: Settings) -> dict[str, str]:
    """The environment of the processes: every setting is given, so that no `.env` file changes one."""
    outside = {key: value for key, value in os.environ.items() if not key.startswith("BILLING_")}
    # An unset one has no words: what it comes to is given.
    given = settings.model_dump(mode="json") | {"record_usage": settings.policy.counts_usage}
    own = {f"BILLING_{name.upper()}": str(value) for name, value in given.items()}
    return outside | own


@contextmanager
def processes(env: Mapping[str, str], var: Path) -> Iterator[None]:
    """A worker with two children and a beat, running while the block runs and ended with it."""
    celery = [sys.executable, "-m", "celery", "-A", "worker"]
    commands = {
        "worker": [*celery, "worker", "-Q", "billing", "-c", "2", "-l", "WARNING"],
        "beat": [*celery, "beat", "-l", "WARNING"],
    }
    for role in commands:
        Heartbeat(str(var), role).file.unlink(missing_ok=True)
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for role, command in commands.items():
            with open(var / f"{role}.log", "wb") as log:
                # A session of its own: Ctrl-C is for the demo, which then ends these in order.
                started[role] = subprocess.Popen(
                    command, env=dict(env), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        for role, process in started.items():
            _await_life(role, process, var)
        yield
    finally:
        _stop(list(started.values()))


def _await_life(role: str, process: subprocess.Popen[bytes], var: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not Heartbeat(str(var), role).file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = (var / f"{role}.log").read_text(errors="replace")[-2_000:]
            raise SystemExit(f"the demo's {role} did not start:\n{tail}")
        time.sleep(0.05)


def _stop(running: list[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
