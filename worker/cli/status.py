"""`status`: everything an operator looks at first, on one screen."""

import json
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from celery import Celery
from kombu.exceptions import OperationalError
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from config import startup
from config.celery import options
from config.settings import Settings
from relay_billing.flows.overview import Open
from worker.monitoring import snapshot
from worker.monitoring.queues import TIMEOUT_S
from worker.monitoring.snapshot import Snapshot
from worker.stop import Stop
from worker.words import amount, shown_time

ASK_S = 1.0
"""Seconds that workers have to answer a broadcast; one that is too busy to answer is not shown."""
REFRESH_S = 2.0

Cells = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _SeenWorker:
    """A worker that answered, on any host."""

    name: str
    pid: int
    children: int
    jobs: int
    """Tasks that it has done since it began."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """One reading of everything."""

    at: int
    """Unix milliseconds."""
    workers: tuple[_SeenWorker, ...]
    standing: Snapshot
    """Database and broker; named as `--json` shows it."""


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _worker(name: str, stats: Mapping[str, object]) -> _SeenWorker:
    pool, total = stats.get("pool"), stats.get("total")
    processes = pool.get("processes") if isinstance(pool, Mapping) else None
    done = sum(_whole(each) for each in total.values()) if isinstance(total, Mapping) else 0
    children = len(processes) if isinstance(processes, list) else 0
    return _SeenWorker(name, _whole(stats.get("pid")), children, done)


def _workers(settings: Settings) -> tuple[_SeenWorker, ...]:
    """Ask all workers over the broker for their numbers."""
    app = Celery("status", set_as_current=False)
    app.conf.update(options(settings))
    try:
        with app.connection_for_read(connect_timeout=TIMEOUT_S) as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT_S)
            answers = app.control.inspect(timeout=ASK_S, connection=connection).stats() or {}
    except (OperationalError, OSError):
        # The snapshot reports that the broker is away.
        return ()
    finally:
        app.close()
    return tuple(_worker(name, stats) for name, stats in sorted(answers.items()))


def _look(settings: Settings) -> _Seen:
    """Read once: database and broker first, workers only where the broker answers."""
    found = snapshot.read(settings.database_url, settings.broker_url)
    return _Seen(time.time_ns() // 1_000_000, () if found.broker_problem else _workers(settings), found)


def ago(at: int | None, now: int) -> str:
    """How long something has lasted, as `45 s`, `3 min`, `5 h` or `2 d`."""
    if at is None:
        return ""
    seconds = max(0, now - at) // 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _grid(title: str, head: Cells, rows: list[Cells]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(head):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _workers_table(seen: _Seen) -> Table:
    rows: list[Cells] = [(each.name, str(each.pid), str(each.children), f"{each.jobs:,}") for each in seen.workers]
    return _grid("Workers", ("", "pid", "children", "tasks done"), rows or [("none answered", "", "", "")])


def _queues_table(seen: _Seen) -> Table:
    rows: list[Cells] = [
        (each.name, f"{each.messages:,}", ago(each.oldest_at, seen.at)) for each in seen.standing.queues
    ]
    return _grid("Queues", ("", "messages", "oldest"), rows)


def _open_table(seen: _Seen) -> Table:
    found = seen.standing.overview
    assert found is not None

    def row(name: str, each: Open) -> Cells:
        return (name, f"{each.count:,}", amount(each.quota), ago(each.oldest_at, found.at))

    rows = [
        row("open holds", found.holds),
        ("  parked of these", f"{found.parked:,}", "", ""),
        row("waiting intents", found.intents),
        row("dead letters", found.dead_letters),
    ]
    return _grid("Sessions and dead letters", ("", "count", "quota", "oldest"), rows)


def _proof(seen: _Seen) -> str:
    found = seen.standing.overview
    if found is None or found.reconcile is None:
        return "Last reconcile: never"
    last = found.reconcile
    came_to = "no drift" if last.drifts == 0 else f"{last.drifts:,} drifts, {amount(last.drift_quota)}"
    return f"Last reconcile: {shown_time(last.finished_at)} UTC ({ago(last.finished_at, found.at)} ago), {came_to}"


def _sweep(seen: _Seen) -> str:
    found = seen.standing.overview
    if found is None or found.swept_at is None:
        return "Last sweep: never"
    return f"Last sweep: {shown_time(found.swept_at)} UTC ({ago(found.swept_at, found.at)} ago)"


def _screen(seen: _Seen) -> Group:
    parts: list[Table | str] = [f"relay-billing, {shown_time(seen.at)} UTC"]
    if seen.standing.broker_problem is None:
        parts += [_workers_table(seen), _queues_table(seen)]
    else:
        parts.append(f"The broker can't be asked: {seen.standing.broker_problem}")
    if seen.standing.overview is not None:
        parts += [_open_table(seen), _sweep(seen), _proof(seen)]
    else:
        parts.append(f"The database can't be read: {seen.standing.database_problem}")
    return Group(*parts)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; amounts are quota, times Unix ms.")] = False,
    watch: Annotated[bool, typer.Option(help="Look again every 2 s, until Ctrl-C.")] = False,
) -> None:
    """Workers, queues, holds, intents, dead letters, the last sweep and reconcile, on one screen.

    Workers are those that answer a broadcast within a second. Exits 2 when database or broker can't be asked.

    Example: python -m worker status --watch
    """
    settings = startup.settings()
    seen = _look(settings)
    if as_json:
        print(json.dumps(asdict(seen)))
    elif watch:
        _watch(settings, seen)
    else:
        Console().print(_screen(seen))
    raise typer.Exit(2 if seen.standing.database_problem or seen.standing.broker_problem else 0)


def _watch(settings: Settings, seen: _Seen) -> None:
    with Live(_screen(seen), auto_refresh=False) as live:
        try:
            stop = Stop(signal.SIGINT)
            while True:
                stop.check()
                time.sleep(REFRESH_S)
                live.update(_screen(_look(settings)), refresh=True)
        except KeyboardInterrupt:
            # How an operator ends it.
            return
