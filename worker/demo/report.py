"""What the demo tells at its end."""

from collections import Counter
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, select

from relay_billing.domain.money import usd
from relay_billing.reconcile import Drift
from relay_billing.schema import user_subscriptions, users
from worker.cli.books import line_of
from worker.demo.scene import Cast


@dataclass(frozen=True, slots=True)
class Balance:
    """What one user has left, in quota: wallet and allowance together."""

    before: int
    after: int


def balances(engine: Engine, cast: list[Cast]) -> dict[str, Balance]:
    """Read what is left, from the account tables themselves."""
    found = {}
    with engine.connect() as connection:
        for who in cast:
            wallet = connection.execute(select(users.c.quota).where(users.c.id == who.user_id)).scalar_one()
            c = user_subscriptions.c
            used = connection.execute(select(c.amount_used).where(c.id == who.subscription_id)).scalar() or 0
            found[who.name] = Balance(who.wallet + who.allowance, wallet + who.allowance - used)
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is told of one run. Amounts in quota; users by name."""

    counts: dict[str, dict[str, int]]
    """What the relay counted of each user."""
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
    """By user: quota that is neither left nor charged. The relay's own count is the witness, not the ledger."""
    return {
        name: balance.before - counts[name]["charged"] - balance.after
        for name, balance in found.items()
        if balance.before - counts[name]["charged"] != balance.after
    }


def show(console: Console, outcome: Outcome) -> None:
    """One line a user, what was tried to upset the books, and whether they balance."""
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
        console.print(line_of(drift))
    for name, quota in outcome.unaccounted.items():
        console.print(f"[red]{name}: {quota:+,} quota is neither left nor charged[/red]")
    if outcome.not_closed:
        console.print(f"[red]{outcome.not_closed} sessions were not closed in time[/red]")
    if outcome.balanced:
        console.print("[green]Reconciled: no drift, every unit of quota is accounted for.[/green]")
