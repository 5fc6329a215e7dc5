"""`dead-letters`: jobs that could not be applied, and what to do about them."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from config.refusal import Refusal
from relay_billing import Ledger
from relay_billing.flows import dead_letters
from relay_billing.flows.dead_letters import Filter, KeptLetter, Resolution
from worker.cli.amounts import quota_of
from worker.cli.ledger import open_ledger
from worker.cli.options import Json, Yes, ask
from worker.cli.times import moment_ms
from worker.words import amount, shown_time

app = typer.Typer(help="Jobs that could not be applied: list, show, replay, write off, purge.", no_args_is_help=True)

Ids = Annotated[list[int], typer.Argument(help="Ids, as `list` shows them.", min=1)]


def _table(letters: list[KeptLetter]) -> Table:
    table = Table(title="Dead letters", box=box.SIMPLE_HEAD)
    for column in ("id", "since (UTC)", "reason", "task", "request", "user", "state"):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "reason", "state"))
    table.add_column("at stake", justify="right", no_wrap=True)
    for each in letters:
        table.add_row(
            str(each.id),
            shown_time(each.created_at),
            each.reason,
            each.task.removeprefix("billing."),
            each.request_id or "",
            "" if each.user_id is None else str(each.user_id),
            each.resolution or "open",
            f"{each.quota:,}",
        )
    return table


@app.command("list")
def _list_letters(
    reason: Annotated[str | None, typer.Option(help="Only this reason, `conflict` for example.")] = None,
    user: Annotated[int | None, typer.Option(help="Only this user's.", min=1)] = None,
    older_than: Annotated[str | None, typer.Option(help="Only letters older than 30m, 12h, 7d or a date.")] = None,
    at_least: Annotated[str | None, typer.Option(help="Only with as much at stake: 250000, or 0.5usd.")] = None,
    all_states: Annotated[bool, typer.Option("--all", help="Those that were dealt with, too.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=10_000)] = 100,
    as_json: Json = False,
) -> None:
    """List dead letters, oldest first. Exits 0, whether there are any or not.

    Example: python -m worker dead-letters list --reason implausible_amount --older-than 1d
    """
    chosen = Filter(
        reason=reason,
        user_id=user,
        before_ms=moment_ms("--older-than", older_than),
        at_least=None if at_least is None else quota_of("--at-least", at_least),
        resolved=None if all_states else False,
        limit=limit,
    )
    with open_ledger() as ledger:
        letters = ledger.read(dead_letters.find, chosen)
    if as_json:
        print(json.dumps([asdict(each) for each in letters]))
    elif letters:
        Console().print(_table(letters))
        print(f"{len(letters)} dead letters, {amount(sum(each.quota for each in letters))} at stake")
    else:
        print("no dead letters")


@app.command("show")
def _show(letter_id: Annotated[int, typer.Argument(metavar="ID", min=1)], as_json: Json = False) -> None:
    """Show one dead letter whole. Exits 2 when there is none with this id.

    Example: python -m worker dead-letters show 7
    """
    with open_ledger() as ledger:
        found = ledger.read(dead_letters.find, Filter(ids=(letter_id,), resolved=None))
    if not found:
        raise Refusal(f"there is no dead letter {letter_id}")
    values = asdict(found[0])
    if as_json:
        print(json.dumps(values))
        return
    values["quota"] = amount(found[0].quota)
    for name in ("created_at", "last_at", "resolved_at"):
        values[name] = shown_time(values[name])
    for name, value in values.items():
        print(f"{name:>12}  {'' if value is None else value}")


def _each(ids: list[int], act: Callable[[Ledger, int], Resolution], as_json: bool) -> None:
    with open_ledger() as ledger:
        done = [act(ledger, each) for each in ids]
    if as_json:
        print(json.dumps([asdict(each) for each in done]))
    else:
        for each in done:
            print(f"{each.id}: {'done' if each.resolved else 'still open'}, {each.detail}")
    raise typer.Exit(0 if all(each.resolved for each in done) else 1)


@app.command("replay")
def _replay(ids: Ids, as_json: Json = False) -> None:
    """Judge the jobs afresh, under today's settings. Safe to repeat. Exits 1 when one of them stays open.

    Example: BILLING_MAX_SETTLE_QUOTA=0 python -m worker dead-letters replay 7 8
    """
    _each(ids, lambda ledger, each: ledger.run(dead_letters.replay, each), as_json)


@app.command("write-off")
def _write_off(
    ids: Ids,
    reason: Annotated[str, typer.Option(help="Why, for the ledger: 1 to 255 characters.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Give up what is at stake: a parked session's hold goes back to its user, the ledger keeps the reason.

    Example: python -m worker dead-letters write-off 7 --reason "ticket 4711, goodwill"
    """
    ask(f"Give up what {len(ids)} dead letters have at stake?", yes)
    _each(ids, lambda ledger, each: ledger.run(dead_letters.write_off, each, reason), as_json)


@app.command("purge")
def _purge(
    older_than: Annotated[str, typer.Option(help="Dealt with before 30m, 12h, 7d ago or a date.")] = "90d",
    as_json: Json = False,
) -> None:
    """Remove letters that were dealt with long ago. Open ones always stay.

    Example: python -m worker dead-letters purge --older-than 30d
    """
    before = moment_ms("--older-than", older_than)
    with open_ledger() as ledger:
        removed = ledger.run_in_batches(dead_letters.purge, before or 0)
    print(json.dumps({"removed": removed}) if as_json else f"{removed} dead letters removed")
