"""What the demo tells at its end."""

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, select

from relay_billing.domain.money import usd
from relay_billing.reconcile import Drift
from relay_billing.schema import user_subscriptions, users
from worker.cli.books import line_of
from worker.demo.relay import Tally
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


def unaccounted(tallies: dict[str, Tally], found: dict[str, Balance]) -> dict[str, int]:
    """By user: quota that is neither left nor charged. The relay's own tally is the witness, not the ledger."""
    return {
        name: balance.before - tallies[name].charged - balance.after
        for name, balance in found.items()
        if balance.before - tallies[name].charged != balance.after
    }


def show(console: Console, tallies: dict[str, Tally], found: dict[str, Balance]) -> None:
    """One line a user, and what was tried to upset the books."""
    table = Table(title="What happened (quota)", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("user", no_wrap=True)
    for column in ("held", "settled", "refunded", "refused", "before", "after"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, tally in tallies.items():
        balance = found[name]
        refused = f"{tally.refused}/{tally.requests}"
        cells = [f"{number:,}" for number in (tally.held, tally.charged, tally.refunded)]
        table.add_row(name, *cells, refused, f"{balance.before:,}", f"{balance.after:,}")
    console.print(table)
    sums = {
        name: sum(getattr(tally, name) for tally in tallies.values())
        for name in ("duplicates", "replays", "conflicts", "trusted", "expiring")
    }
    console.print(
        f"Relays that died held {sums['expiring']:,} quota ({usd(sums['expiring'])}): expired and given back."
    )
    console.print(
        f"{sums['replays']} requests were sent again, {sums['duplicates']} settles posted twice, {sums['conflicts']} "
        f"ids used again with another amount, {sums['trusted']} trusted requests held nothing: none moved money twice."
    )


def verdict(console: Console, drifts: list[Drift], missing: dict[str, int], open_sessions: int) -> bool:
    """Say whether the books balance; True: they do."""
    if drifts:
        for drift in drifts:
            console.print(line_of(drift))
    for name, quota in missing.items():
        console.print(f"[red]{name}: {quota:+,} quota is neither left nor charged[/red]")
    if open_sessions:
        console.print(f"[red]{open_sessions} sessions were not closed in time[/red]")
    if drifts or missing or open_sessions:
        return False
    console.print("[green]Reconciled: no drift, every unit of quota is accounted for.[/green]")
    return True
