"""`webhooks`: events for the operator's webhook, delivered or not."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from relay_billing.flows import webhooks
from relay_billing.flows.webhooks import MAX_LISTED, Webhook
from worker.cli.ledger import open_ledger
from worker.cli.options import Json
from worker.words import shown_time

app = typer.Typer(help="Events sent by webhook: list them, send failed ones again.", no_args_is_help=True)


def _table(found: list[Webhook]) -> Table:
    table = Table(title="Webhooks", box=box.SIMPLE_HEAD)
    for column in ("id", "since (UTC)", "event", "state", "attempts", "next (UTC)", "last error"):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "event", "state"))
    for each in found:
        table.add_row(
            str(each.id),
            shown_time(each.created_at),
            each.event,
            each.state,
            str(each.attempts),
            shown_time(each.next_at) if each.state == "pending" else "",
            each.last_error or "",
        )
    return table


@app.command("list")
def list_webhooks(
    state: Annotated[str | None, typer.Option(help="Only `pending`, `delivered` or `failed` ones.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=MAX_LISTED)] = 100,
    as_json: Json = False,
) -> None:
    """List events, oldest first. Exits 0, whether there are any or not.

    Example: python -m worker webhooks list --state failed
    """
    with open_ledger() as ledger:
        found = ledger.read(webhooks.find, state, limit)
    if as_json:
        print(json.dumps([asdict(each) for each in found]))
    elif found:
        Console().print(_table(found))
    else:
        print("no webhooks")


@app.command()
def retry(
    ids: Annotated[list[int], typer.Argument(help="Ids, as `list` shows them.", min=1)], as_json: Json = False
) -> None:
    """Try failed events again, with all their attempts. Exits 1 when one of the ids is not a failed event.

    Example: python -m worker webhooks retry 7 8
    """
    with open_ledger() as ledger:
        again = ledger.run(webhooks.retry, ids)
    if as_json:
        print(json.dumps([{"id": each, "retried": each in again} for each in ids]))
    else:
        for each in ids:
            print(f"{each}: {'is sent again' if each in again else 'is no failed event, nothing done'}")
    raise typer.Exit(0 if set(ids) <= set(again) else 1)
