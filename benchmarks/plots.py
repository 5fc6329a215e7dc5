"""What `docs/performance.md` shows, drawn from `results/latest.json`."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.growth import YARDSTICK

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
IMAGES = ROOT / "docs" / "images"
COLOURS = {
    "BillingClient": "#1f77b4",
    "AsyncBillingClient": "#0b3c6f",
    "naive ORM": "#d95f02",
    "seed's sequence": "#e6ab02",
    "bare statement": "#999999",
}


def _save(figure: Any, name: str) -> None:  # noqa: ANN401
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    for ending in ("png", "svg"):
        figure.savefig(IMAGES / f"{name}.{ending}", dpi=110, metadata={"Date": None} if ending == "svg" else None)
    plt.close(figure)


def concurrency(scenarios: list[dict[str, Any]]) -> None:
    """Throughput and the 99th percentile against the number of callers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    chosen = [each for each in scenarios if each["group"] == "concurrency"]
    for way, colour in COLOURS.items():
        points = [(each["callers"], each["ways"][way]) for each in chosen if way in each["ways"]]
        callers = [point[0] for point in points]
        style = {"marker": "o", "color": colour, "label": way, "linestyle": ":" if way == "bare statement" else "-"}
        left.plot(callers, [point[1]["per_second"] for point in points], **style)
        right.plot(callers, [point[1]["p99_ms"] for point in points], **style)
    for axes, title in ((left, "holds a second"), (right, "99th percentile, ms")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks([1, 8, 64, 256], ["1", "8", "64", "256"])
        axes.set_xlabel("concurrent callers")
        axes.set_title(title)
        axes.grid(alpha=0.3, which="both")
    right.legend(fontsize=8, loc="upper left")
    _save(figure, "throughput")


def latencies(scenarios: list[dict[str, Any]]) -> None:
    """Median and 99th percentile of each comparison at 64 callers."""
    chosen = [
        each for each in scenarios if each["callers"] == 64 and {"AsyncBillingClient", "naive ORM"} <= set(each["ways"])
    ]
    figure, axes = plt.subplots(figsize=(11, 4.2))
    names = [each["name"].replace(", 64 callers", "") for each in chosen]
    for offset, (way, colour) in enumerate((("AsyncBillingClient", "#0b3c6f"), ("naive ORM", "#d95f02"))):
        rows = [number + offset * 0.38 for number in range(len(chosen))]
        axes.barh(rows, [each["ways"][way]["p99_ms"] for each in chosen], 0.36, color=colour, alpha=0.4)
        axes.barh(rows, [each["ways"][way]["p50_ms"] for each in chosen], 0.36, color=colour, label=way)
    axes.set_yticks([number + 0.19 for number in range(len(chosen))], names)
    axes.set_xscale("log")
    axes.set_xlabel("ms at 64 callers: median (dark), 99th percentile (light)")
    axes.grid(alpha=0.3, axis="x", which="both")
    axes.legend(fontsize=8)
    _save(figure, "latency")


def growth(rows: list[dict[str, Any]]) -> None:
    """Throughput, measured by the naive ORM's, against the number of sessions: a share of that with the fewest."""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    sizes = [row["sessions"] for row in rows]
    for name in (key for key in rows[0] if key not in ("sessions", "ledger_rows", YARDSTICK)):
        first = rows[0][name]["times_naive"]
        axes.plot(sizes, [100 * row[name]["times_naive"] / first for row in rows], marker="o", label=name)
    axes.axhline(75, color="#888888", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_ylim(0)
    axes.set_xlabel("rows in billing_sessions (billing_ledger has twice as many)")
    axes.set_ylabel("throughput, % of that with the fewest rows")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    _save(figure, "growth")


def draw() -> None:
    """All plots."""
    results = json.loads(RESULTS.read_text())
    concurrency(results["scenarios"])
    latencies(results["scenarios"])
    if results.get("growth"):
        growth(results["growth"])


if __name__ == "__main__":
    draw()
