"""What the demo prints at its end."""

from collections import Counter
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from relay_billing.domain.money import usd
from relay_billing.flows.reconcile import Drift
from worker.demo.balances import Balance
from worker.words import drift_line


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run. Amounts in quota; users by name."""

    counts: dict[str, dict[str, int]]
    """What the relay counted for each user."""
    balances: dict[str, Balance]
    drifts: list[Drift]
    unaccounted: dict[str, int]
    """Quota that is neither left nor charged."""
    not_closed: int
    """Sessions that no worker closed in time."""

    @property
    def balanced(self) -> bool:
        """Whether every unit of quota is accounted for."""
        return not (self.drifts or self.unaccounted or self.not_closed)


def unaccounted(counts: dict[str, dict[str, int]], found: dict[str, Balance]) -> dict[str, int]:
    """By user: quota that is neither left nor charged. Compared with the relay's own count, not with the ledger."""
    return {
        name: balance.before - counts[name]["charged"] - balance.after
        for name, balance in found.items()
        if balance.before - counts[name]["charged"] != balance.after
    }


def show(console: Console, outcome: Outcome) -> None:
    """Print a line for each user, the repeats and conflicts that were tried, and whether every balance is right."""
    table = Table(title="What happened (quota)", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("user", no_wrap=True)
    for column in ("held", "settled", "refunded", "refused", "before", "after"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, counts in outcome.counts.items():
        balance = outcome.balances[name]
        refused = f"{counts['refused']}/{counts['requests']}"
        cells = [f"{counts[each]:,}" for each in ("held", "charged", "refunded")]
        table.add_row(name, *cells, refused, f"{balance.before:,}", f"{balance.after:,}")
    console.print(table)
    sums = sum((Counter(counts) for counts in outcome.counts.values()), Counter())
    console.print(
        f"Relays that died held {sums['expiring']:,} quota ({usd(sums['expiring'])}): expired and given back."
    )
    console.print(
        f"{sums['replays']} requests were sent again, {sums['duplicates']} settles posted twice, {sums['conflicts']} "
        f"ids used again with another amount, {sums['trusted']} trusted requests held nothing: none moved money twice."
    )
    for drift in outcome.drifts:
        console.print(drift_line(drift))
    for name, quota in outcome.unaccounted.items():
        console.print(f"[red]{name}: {quota:+,} quota is neither left nor charged[/red]")
    if outcome.not_closed:
        console.print(f"[red]{outcome.not_closed} sessions were not closed in time[/red]")
    if outcome.balanced:
        console.print("[green]Reconciled: no drift, every unit of quota is accounted for.[/green]")
