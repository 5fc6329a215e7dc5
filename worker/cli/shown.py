"""Tables of sessions and ledger entries, for more than one command."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from relay_billing import BillingSession
from relay_billing.domain.money import usd
from relay_billing.domain.sessions import State
from relay_billing.flows.history import Entry
from worker.words import amount, shown_time


def table_of(title: str, columns: Sequence[str], amounts: Sequence[str]) -> Table:
    """An empty table: words to the left, amounts to the right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in amounts:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def sessions(found: Sequence[BillingSession], title: str = "Sessions") -> Table:
    """One line for each session."""
    table = table_of(title, ("request", "opened (UTC)", "user", "token", "state", "source"), ("held", "charged"))
    for each in found:
        state = f"{each.state.value}, parked" if each.parked else each.state.value
        if each.shadow:
            state += ", shadow"
        if each.intent is not None and each.state is State.PRECONSUMED:
            state += f", to {each.intent.value}"
        held = f"{each.pre_consumed_quota:,}" if each.state is State.PRECONSUMED else ""
        charged = "" if each.actual_quota is None else amount(each.actual_quota)
        key = "" if each.token_id is None else str(each.token_id)
        opened = shown_time(each.created_at)
        table.add_row(each.request_id, opened, str(each.user_id), key, state, each.source, held, charged)
    return table


def movements(found: Sequence[Entry], title: str) -> Table:
    """One line for each ledger entry."""
    table = table_of(title, ("when (UTC)", "kind", "request", "note"), ("change", "USD", "balance after"))
    for each in found:
        words = (shown_time(each.created_at), each.kind, each.request_id, each.note or "")
        table.add_row(*words, f"{each.amount:+,}", usd(each.amount), f"{each.balance_after:,}")
    return table
