"""The comparison as a picture: requests by verdict over time, and the quota of each side. Needs matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING

from config.refusal import Refusal
from relay_billing.domain.money import QUOTA_PER_UNIT
from worker.shadow.report import BUCKETS, Report
from worker.shadow.verdicts import Verdict
from worker.words import shown_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    Verdict.AGREED: "#7fb3a6",
    Verdict.REFUSED: "#d95f02",
    Verdict.OVERDREW: "#a50f15",
    Verdict.DIFFER: "#e6ab02",
    Verdict.NEVER_CHARGED: "#7570b3",
    Verdict.ONLY_THEIRS: "#666666",
    Verdict.OPEN: "#a6cee3",
    Verdict.NOT_COMPARED: "#cccccc",
}
OURS, THEIRS = "#1f77b4", "#8c564b"
TICKS = 5


def can_plot(file: Path) -> None:
    """Raise Refusal where the picture can't be drawn: no matplotlib, another format than PNG, or no such folder."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise Refusal("--plot: needs matplotlib: pip install 'relay-billing[plot]'") from None
    if file.suffix != ".png":
        raise Refusal(f"--plot: the file must end in .png, got {str(file)!r}")
    if not file.parent.is_dir():
        raise Refusal(f"--plot: there is no folder {file.parent}")


def plot(report: Report, file: Path) -> None:
    """Draw the report into a PNG. Raises Refusal where the file can't be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [each for each in Verdict if report.totals[each].requests]
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(10, 7.5), height_ratios=(3, 2))
    _over_time(above, report, shown)
    _by_verdict(below, report, shown)
    figure.tight_layout()
    try:
        figure.savefig(file, dpi=110)
    except OSError as error:
        raise Refusal(f"--plot: {file} can't be written: {error.strerror}") from None
    finally:
        pyplot.close(figure)


def _over_time(axes: "Axes", report: Report, shown: list[Verdict]) -> None:
    bottoms = [0] * BUCKETS
    for each in shown:
        heights = [report.buckets[number, each] for number in range(BUCKETS)]
        label = f"{each.words}: {report.totals[each].requests:,}"
        axes.bar(range(BUCKETS), heights, 1.0, bottom=bottoms, color=COLOURS[each], label=label, align="edge")
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    ticks = [round(BUCKETS * number / (TICKS - 1)) for number in range(TICKS)]
    axes.set_xticks(ticks, [shown_time(report.from_ms + tick * report.bucket_ms)[:16] for tick in ticks])
    axes.set_xlim(0, BUCKETS)
    axes.set_ylabel("requests")
    axes.set_title(f"Shadow and relay, {shown_time(report.from_ms)} to {shown_time(report.to_ms)} UTC")
    if shown:
        axes.legend(fontsize=8, loc="upper left", ncols=2)
    # Room for the legend above the tallest bar.
    axes.set_ylim(0, max(*bottoms, 1) * 1.35)
    axes.grid(alpha=0.3, axis="y")


def _by_verdict(axes: "Axes", report: Report, shown: list[Verdict]) -> None:
    for offset, (name, colour) in enumerate((("we would charge", OURS), ("they charged", THEIRS))):
        rows = [number + offset * 0.38 for number in range(len(shown))]
        totals = [report.totals[each] for each in shown]
        sums = [total.theirs if offset else total.ours for total in totals]
        bars = axes.barh(rows, [each / QUOTA_PER_UNIT for each in sums], 0.36, color=colour, label=name)
        axes.bar_label(bars, [f" ${each / QUOTA_PER_UNIT:,.2f} ({each:,})" for each in sums], fontsize=8)
    axes.set_yticks([number + 0.19 for number in range(len(shown))], [each.words for each in shown])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("US dollars (quota)")
    axes.grid(alpha=0.3, axis="x")
    if shown:
        axes.legend(fontsize=8)
