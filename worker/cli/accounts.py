"""`users show`, `tokens show` and `top-up`: the accounts."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from config.refusal import Refusal
from relay_billing.flows import accounts
from relay_billing.flows import tokens as token_flow
from relay_billing.flows.accounts import Account
from relay_billing.flows.allowances import Allowance
from relay_billing.flows.history import MAX_ROWS
from relay_billing.flows.recent import RECENT
from relay_billing.flows.tokens import Key
from worker.cli import shown
from worker.cli.amounts import quota_of
from worker.cli.ledger import open_ledger
from worker.cli.options import Json
from worker.words import amount, shown_time

users = typer.Typer(help="Wallets with their tokens, subscriptions and holds.", no_args_is_help=True)
tokens = typer.Typer(help="API keys' own limits.", no_args_is_help=True)

Recent = Annotated[int, typer.Option(help="Open holds and movements to list.", min=1, max=MAX_ROWS)]
UNLIMITED = "unlimited"


@users.command("show")
def show_user(
    user_id: Annotated[int, typer.Argument(metavar="ID", min=1)], recent: Recent = RECENT, as_json: Json = False
) -> None:
    """Show one user: wallet, tokens, subscriptions, open holds, last movements. Exits 2 when there is none.

    Example: python -m worker users show 42
    """
    with open_ledger() as ledger:
        found = ledger.read(accounts.account, user_id, recent)
    if found is None:
        raise Refusal(f"there is no user {user_id}")
    if as_json:
        print(json.dumps(asdict(found)))
        return
    _print_user(found)


def _print_user(found: Account) -> None:
    console = Console()
    name = f" {found.username}" if found.username else ""
    print(f"user {found.id}{name}: wallet {amount(found.quota)}, {found.holds} open holds of {amount(found.held)}")
    print(f"used so far {amount(found.used_quota)} in {found.request_count:,} requests")
    if found.tokens:
        console.print(_tokens(found.tokens))
    if found.subscriptions:
        console.print(_subscriptions(found.subscriptions))
    if found.open_sessions:
        console.print(shown.sessions(found.open_sessions, "Open holds"))
    if found.movements:
        console.print(shown.movements(found.movements, "Last movements of the wallet"))


def _left(token: Key) -> str:
    return UNLIMITED if token.unlimited_quota else amount(token.remain_quota)


def _tokens(found: tuple[Key, ...]) -> Table:
    table = shown.table_of("Tokens", ("id", "name", "key", "status"), ("left", "used"))
    for each in found:
        table.add_row(str(each.id), each.name, each.key, str(each.status), _left(each), amount(each.used_quota))
    return table


def _subscriptions(found: tuple[Allowance, ...]) -> Table:
    table = shown.table_of("Subscriptions", ("id", "plan", "status", "ends (UTC)", "next reset (UTC)"), ("used", "of"))
    for each in found:
        plan = each.plan_title or f"plan {each.plan_id}"
        reset = shown_time(each.next_reset_time * 1000) if each.next_reset_time else ""
        total = amount(each.amount_total) if each.amount_total else UNLIMITED
        ends = shown_time(each.end_time * 1000)
        table.add_row(str(each.id), plan, each.status, ends, reset, amount(each.amount_used), total)
    return table


@tokens.command("show")
def show_token(
    token_id: Annotated[int, typer.Argument(metavar="ID", min=1)], recent: Recent = RECENT, as_json: Json = False
) -> None:
    """Show one token: its limit, open holds, last movements; never its key. Exits 2 when there is none.

    Example: python -m worker tokens show 7
    """
    with open_ledger() as ledger:
        found = ledger.read(token_flow.token, token_id, recent)
    if found is None:
        raise Refusal(f"there is no token {token_id}")
    if as_json:
        print(json.dumps(asdict(found)))
        return
    token = found.token
    console = Console()
    print(f"token {token.id} {token.name}, key {token.key}, of user {token.user_id}, status {token.status}")
    print(f"left {_left(token)}, used {amount(token.used_quota)}, {found.holds} open holds of {amount(found.held)}")
    if found.open_sessions:
        console.print(shown.sessions(found.open_sessions, "Open holds"))
    if found.movements:
        console.print(shown.movements(found.movements, "Last movements"))


def top_up(
    user_id: Annotated[int, typer.Argument(metavar="USER", min=1)],
    quota: Annotated[str, typer.Argument(metavar="AMOUNT", help="Quota like 2500000, or dollars like 5usd.")],
    reference: Annotated[str, typer.Option(help="The payment's own id, 1 to 64 characters: it counts once.")],
    note: Annotated[str | None, typer.Option(help="Why, for the ledger: at most 255 characters.")] = None,
    as_json: Json = False,
) -> None:
    """Put money into a wallet, once for each reference: safe to repeat. Exits 2 when the reference belongs to another.

    Example: python -m worker top-up 42 5usd --reference invoice-2026-0815
    """
    asked = quota_of("AMOUNT", quota, least=1)
    with open_ledger() as ledger:
        done = ledger.top_up(user_id=user_id, quota=asked, reference=reference, note=note)
    if as_json:
        print(json.dumps(asdict(done)))
        return
    when = f"was topped up by {reference} at {shown_time(done.at)} UTC already" if done.replayed else "is topped up"
    after = "then" if done.replayed else "now"
    print(f"user {user_id} {when}: {amount(done.quota)}, the wallet {after} at {amount(done.balance_after)}")
