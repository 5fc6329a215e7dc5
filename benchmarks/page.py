"""Writes the figures of `results/latest.json` into the tables of `docs/performance.md`; its words are its authors'."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import http, mariadb
from benchmarks.growth import YARDSTICK
from benchmarks.plots import RESULTS, ROOT

PAGE = ROOT / "docs" / "performance.md"
Results = dict[str, Any]
Row = Iterable[object]


def _table(head: Row, rows: Iterable[Row]) -> str:
    def line(cells: Row) -> str:
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    head = list(head)
    return "\n".join([line(head), line("---" for _ in head), *map(line, rows)])


def _way(results: Results, scenario: str, way: str) -> dict[str, float]:
    found: dict[str, float] = next(each for each in results["scenarios"] if each["name"] == scenario)["ways"][way]
    return found


def _times(results: Results, scenario: str, way: str) -> str:
    return f"{_way(results, scenario, way)['ours_is_times']:.1f} times"


def _machine(results: Results) -> str:
    of = results["machine"]
    server = of["postgresql"]
    packages = ", ".join(f"{name} {version}" for name, version in of["packages"].items())
    settings = ", ".join(f"`{name}={server[name]}`" for name in server if name != "server_version")
    return (
        f"{of['date']}, {of['cores']} cores, database and brokers on them too; PostgreSQL {server['server_version']} "
        f"with {settings}; Python {of['python']}; {packages}. Medians of {results['rounds']} rounds."
    )


def _reached(results: Results) -> str:
    lone, many = "wallet, evenly, 1 callers", "wallet, evenly, 64 callers"
    threads, naive, through = "wallet, evenly, 8 callers", "naive ORM", "settle through redis"
    by_threads, alone = (_way(results, each, "BillingClient")["per_second"] for each in (threads, lone))
    crowd, orm = _way(results, many, "AsyncBillingClient"), _way(results, lone, naive)
    rows = [
        ("one caller, against the naive ORM", "4.5 times", _times(results, lone, naive)),
        ("the same, against the seed's sequence", "2.5 times", _times(results, lone, "seed's sequence")),
        ("8 threads, against the naive ORM with 8 threads", "6 times", _times(results, threads, naive)),
        ("8 threads, against one caller", "3 times", f"{by_threads / alone:.1f} times"),
        ("64 asyncio callers, against the naive ORM with 64 threads", "40 times", _times(results, many, naive)),
        ("the same, one hot wallet", "60 times", _times(results, "wallet, one hot wallet, 64 callers", naive)),
        (
            "p99 with 64 asyncio callers, of what the naive ORM with one caller takes",
            "6.7 times",
            f"{crowd['p99_ms'] / orm['p50_ms']:.1f} times ({crowd['p99_ms']:.1f} and {orm['p50_ms']:.1f} ms)",
        ),
        (
            "settles through Redis, 500 jobs a message, against a naive task a settle",
            "50 times",
            _times(results, f"{through}, 500 jobs a message", "naive task"),
        ),
        (
            "settles through Redis, one job a message, against the naive task",
            "1 times",
            _times(results, f"{through}, 1 job a message", "naive task"),
        ),
        ("SQLite, one caller, against the naive ORM", "1.5 times", _times(results, "SQLite, 1 callers", naive)),
        ("SQLite, 8 threads, against the naive ORM", "4 times", _times(results, "SQLite, 8 callers", naive)),
        *(_reached_over_http(results) if "idle" in results else ()),
    ]
    return _table(("what", "wanted", "measured"), rows)


def _reached_over_http(results: Results) -> list[Row]:
    many, idle = http.name(64), results["idle"]
    door, client = _way(results, many, http.OURS), _way(results, many, http.IN_PROCESS)
    return [
        (
            "over HTTP, 64 connections, one door process, against 64 asyncio callers in process",
            "0.7 times",
            f"{client['ours_is_times']:.2f} times",
        ),
        (
            "the same, its p99 of theirs",
            "at most 1.5 times",
            f"{door['p99_ms'] / client['p99_ms']:.2f} times ({door['p99_ms']:.1f} and {client['p99_ms']:.1f} ms)",
        ),
        ("the same, against the ORM behind FastAPI", "12 times", _times(results, many, http.NAIVE)),
        (
            f"what {idle['connections']:,} idle connections cost the door",
            "under 200 MiB",
            f"{idle['with_them_mib'] - idle['before_mib']:.0f} MiB, on top of {idle['before_mib']:.0f}",
        ),
    ]


def _on_mariadb(results: Results) -> str:
    settings = ", ".join(f"`{name}={value}`" for name, value in results["mariadb"].items() if name != "version")
    naive = "naive ORM"
    rows = []
    for what, scenario, way, wanted in (
        ("one caller", mariadb.name(1), "BillingClient", "1.5 times"),
        ("64 asyncio callers, against 64 threads", mariadb.name(64), "AsyncBillingClient", "5 times"),
        ("the same, one hot wallet", mariadb.name(64, mariadb.HOT), "AsyncBillingClient", ""),
    ):
        ours, theirs = (_way(results, scenario, each) for each in (way, naive))
        latencies = " and ".join(f"{each['p50_ms']:.1f} / {each['p99_ms']:.1f}" for each in (ours, theirs))
        rates = f"{ours['per_second']:,.0f} and {theirs['per_second']:,.0f}"
        rows.append((what, wanted, _times(results, scenario, naive), rates, latencies))
    head = ("ours against the naive ORM", "wanted", "measured", "a second, ours and theirs", "p50 / p99, ms")
    return f"MariaDB {results['mariadb']['version']} with {settings}.\n\n{_table(head, rows)}"


def _parts(results: Results) -> str:
    """What one item costs, by where it is spent."""
    columns = ("wall_us", "client_us", "driver_us", "server_us", "commit_us", "rest_us")
    rows = (
        (each["what"], each["batch"], *("" if each[of] is None else f"{each[of]:,.0f}" for of in columns))
        for each in results["price"]["parts"]
    )
    return _table(("what", "a batch", "all", "Python", "driver", "server", "commit", "rest"), rows)


def _variants(results: Results) -> str:
    """What the server needs without an index, or without ledger rows."""
    rows = (
        (
            each["variant"],
            f"{each['hold_us']:.0f}",
            f"{each['settle_us']:.0f}",
            f"{each['hold_wal_bytes']:,}",
            f"{each['settle_wal_bytes']:,}",
        )
        for each in results["price"]["variants"]
    )
    head = ("", "a hold, µs", "a settle, µs", "log a hold, bytes", "log a settle, bytes")
    return _table(head, rows)


def _trips(results: Results) -> str:
    rows = (
        (each["what"], each["batch"], each["statements"], each["round_trips"]) for each in results["price"]["trips"]
    )
    return _table(("what", "a batch", "statements", "round trips"), rows)


def _figures(results: Results) -> str:
    rows = []
    for each in results["scenarios"]:
        for number, (way, found) in enumerate(each["ways"].items()):
            latencies = f"{found['p50_ms']:.2f} / {found['p99_ms']:.2f}" if found["p99_ms"] else ""
            ratio = f"{found['ours_is_times']:.2f}" if number else ""
            rows.append(("" if number else each["name"], way, f"{found['per_second']:,.0f}", latencies, ratio))
    return _table(("scenario", "way", "a second", "p50 / p99, ms", "ours is so many times"), rows)


def _floor(results: Results) -> str:
    rows = ((name, f"{rate:,.0f}") for name, rate in results["floor"].items())
    return _table(("pgbench, prepared", "transactions a second"), rows)


def _growth(results: Results) -> str:
    first = results["growth"][0]
    ways = [name for name in first if name not in ("sessions", "ledger_rows", YARDSTICK)]

    def cell(row: Results, way: str) -> str:
        share = row[way]["times_naive"] / first[way]["times_naive"]
        return f"{row[way]['per_second']:,.0f} ({share:.0%})"

    rows = [
        (
            f"{row['sessions']:,}",
            f"{row['ledger_rows']:,}",
            *(cell(row, way) for way in ways),
            f"{row[YARDSTICK]['per_second']:,.0f}",
        )
        for row in results["growth"]
    ]
    head = ("rows in billing_sessions", "in billing_ledger", *(f"{way}, a second" for way in ways), YARDSTICK)
    return _table(head, rows)


def _tuning(results: Results) -> str:
    rows = (
        (row["broker"], row["prefetch"], row["children"], f"{row['single']:,}", f"{row['coalesced']:,}")
        for row in results["tuning"]
    )
    return _table(("broker", "prefetch", "children", "one job a message, a second", "500 a message"), rows)


def _memory(results: Results) -> str:
    rows = ((f"{row['settles']:,}", f"{row['children_mib']:.0f}") for row in results["memory"][::4])
    return _table(("settles applied", "MiB resident, both children"), rows)


PARTS: dict[str, tuple[str, Callable[[Results], str]]] = {
    "machine": ("machine", _machine),
    "reached": ("scenarios", _reached),
    "mariadb": ("mariadb", _on_mariadb),
    "price": ("price", _parts),
    "variants": ("price", _variants),
    "trips": ("price", _trips),
    "figures": ("scenarios", _figures),
    "floor": ("floor", _floor),
    "growth": ("growth", _growth),
    "tuning": ("tuning", _tuning),
    "memory": ("memory", _memory),
}
"""By the name of the mark on the page: what of the results is needed, and how it is shown."""


def _filled(page: str, name: str, made: str) -> str:
    """The page with what stands between the marks of that name replaced."""
    mark, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    if page.count(mark) != 1 or page.count(end) != 1:
        raise ValueError(f"{PAGE}: needs one part between {mark.strip()} and {end.strip()}")
    before, _, rest = page.partition(mark)
    return before + mark + made + end + rest.partition(end)[2]


def write() -> None:
    """Fill in every part of the page that has been measured."""
    results, page = json.loads(RESULTS.read_text()), PAGE.read_text()
    for name, (needed, made) in PARTS.items():
        if needed in results:
            page = _filled(page, name, made(results))
    PAGE.write_text(page)
