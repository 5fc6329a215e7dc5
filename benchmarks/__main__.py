"""`make bench`: everything, or those of `PARTS` that are named."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, text

from benchmarks import growth, holds, http, mariadb, page, plots, price, settles, tuning
from benchmarks.measure import USERS, Scenario, play
from benchmarks.site import Site, opened, worker

PARTS = ("price", "holds", "mariadb", "http", "settles", "tuning", "growth", "memory")
MEMORY_SETTLES = 1_000_000
PGBENCH = """\\set of random(1, {users})
BEGIN;
UPDATE tokens SET remain_quota = remain_quota - 1, used_quota = used_quota + 1 WHERE id = :of;
UPDATE users SET quota = quota - 1 WHERE id = :of;
END;
"""


def shown(scenarios: list[Scenario]) -> Table:
    """The figures on one screen."""
    table = Table(box=box.SIMPLE_HEAD, title="Medians of all rounds; the first way of each is ours")
    for column in ("scenario", "way"):
        table.add_column(column, no_wrap=True)
    for column in ("a second", "p50 ms", "p99 ms", "ours is x times"):
        table.add_column(column, justify="right", no_wrap=True)
    for scenario in scenarios:
        for number, way in enumerate(scenario.ways):
            median = scenario.median(way)
            latencies = (f"{median.p50_ms:.2f}", f"{median.p99_ms:.2f}") if median.p99_ms else ("", "")
            ratio = f"{scenario.ratio(way):.1f}" if number else ""
            table.add_row("" if number else scenario.name, way, f"{median.per_second:,.0f}", *latencies, ratio)
    return table


def machine(site: Site) -> dict[str, object]:
    """Where the figures come from."""
    engine = site.engine()
    with engine.connect() as connection:
        settings = {
            name: connection.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("server_version", "synchronous_commit", "fsync", "full_page_writes", "shared_buffers")
        }
    engine.dispose()
    names = ("sqlalchemy", "psycopg", "celery", "kombu", "redis", "uvicorn", "fastapi")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "postgresql": settings,
        "packages": {name: version(name) for name in names},
    }


def pgbench(site: Site) -> dict[str, float]:
    """The floor of the server itself: two updates in one transaction, and its own `-N`, 1 and 8 clients."""
    binary = shutil.which("pgbench") or next(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))), None)
    if binary is None:
        print("pgbench is not there: the server's own floor is not measured")
        return {}
    address = ["-h", "127.0.0.1", "-p", str(site.port), "-U", "postgres"]
    script = site.folder / "hold.pgbench"
    script.write_text(PGBENCH.format(users=USERS))
    engine = create_engine(site.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE floor"))
    engine.dispose()
    subprocess.run([binary, *address, "-q", "-i", "-s", "5", "floor"], check=True, capture_output=True)
    found = {}
    for clients in (1, 8):
        base = [binary, *address, "-n", "-T", "3", "-M", "prepared", "-c", str(clients)]
        for name, more in (("two updates", ["-f", str(script), "postgres"]), ("-N", ["-N", "floor"])):
            said = subprocess.run([*base, *more], check=True, capture_output=True, text=True).stdout
            found[f"{name}, {clients} clients"] = float(said.rsplit("tps = ", 1)[1].split()[0])
    return found


def memory(site: Site) -> list[dict[str, float]]:
    """Memory of a worker's two children over a million settles."""
    with worker(site, "redis", "worker", "billing") as pid:
        posting = settles.Posting(site, "redis")
        found = []
        done, step = 0, MEMORY_SETTLES // 20
        while done < MEMORY_SETTLES:
            posting.ours(step, 500)
            done += step
            found.append({"settles": done, "children_mib": round(settles.resident_mib(pid), 1)})
            print(found[-1], flush=True)
    return found


def main() -> None:
    """Measure, show, write down, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    results: dict[str, Any] = json.loads(plots.RESULTS.read_text()) if plots.RESULTS.exists() else {}
    scenarios: list[Scenario] = []
    if "price" in chosen.parts:
        with opened() as site:
            results["price"] = price.measured(site)
    if "holds" in chosen.parts:
        with opened() as site:
            results["machine"] = machine(site)
            results["floor"] = pgbench(site)
            scenarios += holds.scenarios(site)
            play(scenarios, chosen.rounds)
        with tempfile.TemporaryDirectory(prefix="billing-bench-") as folder:
            on_sqlite = holds.sqlite_scenarios(Path(folder))
            play(on_sqlite, chosen.rounds)
            scenarios += on_sqlite
    if "mariadb" in chosen.parts:
        with mariadb.opened() as server:
            results["mariadb"] = mariadb.machine(server)
            on_mariadb = mariadb.scenarios(server)
            play(on_mariadb, chosen.rounds)
            scenarios += on_mariadb
    if "http" in chosen.parts:
        with opened() as site:
            with http.compared(site) as over_http:
                play(over_http, chosen.rounds)
                scenarios += over_http
            results["idle"] = http.idle(site)
    if "settles" in chosen.parts:
        with opened(("redis", "rabbitmq")) as site:
            for broker in site.brokers:
                with settles.compared(site, broker) as through:
                    play(through, chosen.rounds)
                    scenarios += through
    if "tuning" in chosen.parts:
        with opened(("redis", "rabbitmq")) as site:
            results["tuning"] = tuning.measured(site)
    if "growth" in chosen.parts:
        with opened(sessions=0, shared_buffers=growth.SHARED_BUFFERS) as site:
            results["growth"] = growth.measured(site)
    if "memory" in chosen.parts:
        with opened(("redis",)) as site:
            results["memory"] = memory(site)
    if scenarios:
        Console(width=120).print(shown(scenarios))
        measured = {each.name: each.figures() for each in scenarios}
        before = {each["name"]: each for each in results.get("scenarios", [])}
        results["scenarios"] = list((before | measured).values())
        results["rounds"] = chosen.rounds
    plots.RESULTS.parent.mkdir(exist_ok=True)
    plots.RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    plots.draw()
    page.write()


if __name__ == "__main__":
    main()
