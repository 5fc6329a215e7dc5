"""Holds a second through one door process, against the same client in process and a naive door; idle connections."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from benchmarks.holds import NOBODY, SECONDS, async_client
from benchmarks.measure import Measured, Rate, Scenario, evenly
from benchmarks.site import ROOT, Site
from tests.fixtures.brokers import free_port
from tests.fixtures.waiting import until

CONNECTIONS = (1, 8, 64, 256)
IDLE = 10_000
"""Kept connections on which nothing is asked."""
STARTED_WITHIN_S, ENDED_WITHIN_S = 30.0, 60.0
CALLERS = (sys.executable, "-m", "benchmarks.http_callers")
OURS, IN_PROCESS, NAIVE = "HTTP door", "AsyncBillingClient", "FastAPI and ORM"


def name(connections: int) -> str:
    """What the comparison is called."""
    return f"over HTTP, {connections} connections"


@contextmanager
def _served(
    site: Site, command: tuple[str, ...], port: int, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """One door process, ready."""
    log = site.folder / f"door-{port}.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(command, env=os.environ | env, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} has ended: {log.read_text(errors='replace')}")
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            # It does not listen yet.
            return False

    try:
        until(ready, STARTED_WITHIN_S, f"a door on port {port}: see {log}")
        yield process
    finally:
        process.terminate()
        process.wait(ENDED_WITHIN_S)


@contextmanager
def door(site: Site) -> Iterator[tuple[int, int]]:
    """Ours, with its settings as they come: its port and process id."""
    port = free_port()
    env = {
        "BILLING_DATABASE_URL": site.url,
        "BILLING_BROKER_URL": NOBODY,
        "BILLING_VAR_DIR": str(site.folder / "var-door"),
        "BILLING_TRUST_QUOTA": "0",
        "BILLING_API_PORT": str(port),
    }
    with _served(site, (sys.executable, "-m", "api"), port, env) as process:
        yield port, process.pid


@contextmanager
def naive_door(site: Site) -> Iterator[int]:
    """The naive one: its port."""
    port = free_port()
    options = ("--port", str(port), "--no-access-log", "--log-level", "warning")
    command = (sys.executable, "-m", "uvicorn", "benchmarks.naive_door:app", *options)
    with _served(site, command, port, {"NAIVE_DATABASE_URL": site.url}):
        yield port


def called(port: int, connections: int) -> Measured:
    """Holds on so many connections."""

    def measured() -> Rate:
        command = (*CALLERS, "hold", str(port), str(connections), str(SECONDS))
        said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        return Rate(**json.loads(said))

    return measured


@contextmanager
def compared(site: Site) -> Iterator[list[Scenario]]:
    """The comparisons, while both doors are there."""
    with ExitStack() as stack:
        ours, _ = stack.enter_context(door(site))
        naive = stack.enter_context(naive_door(site))
        yield [
            Scenario(
                name(connections),
                "HTTP",
                connections,
                {
                    OURS: called(ours, connections),
                    IN_PROCESS: async_client(site.url, connections, evenly),
                    NAIVE: called(naive, connections),
                },
            )
            for connections in CONNECTIONS
        ]


def idle(site: Site) -> dict[str, float]:
    """What kept connections cost a door that has just started, in MiB of resident memory."""
    with door(site) as (port, pid):
        before = _resident_mib(pid)
        command = (*CALLERS, "idle", str(port), str(IDLE))
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as callers:
            assert callers.stdout is not None
            if callers.stdout.readline() != "open\n":
                raise RuntimeError(f"{IDLE:,} connections could not be opened; `ulimit -n` must allow them")
            with_them = _resident_mib(pid)
            callers.communicate()
        if callers.returncode:
            raise RuntimeError("the door closed connections that were idle")
    return {"connections": IDLE, "before_mib": round(before, 1), "with_them_mib": round(with_them, 1)}


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
