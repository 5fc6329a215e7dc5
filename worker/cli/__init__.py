"""The operators' commands, one file for each noun."""

import typer

from worker.cli import (
    accounts,
    api_keys,
    config,
    database,
    dead_letters,
    demo,
    doctor,
    drain,
    health,
    reconcile,
    sessions,
    shadow,
    status,
    webhooks,
)
from worker.cli.commands import NEGATIVE, Commands

app = typer.Typer(
    cls=Commands,
    help="Operate relay-billing: accounts, sessions, ledger, processes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(sessions.app, name="sessions")
app.add_typer(accounts.users, name="users")
app.add_typer(accounts.tokens, name="tokens")
app.command("top-up", context_settings=NEGATIVE)(accounts.top_up)
app.add_typer(dead_letters.app, name="dead-letters")
app.command("reconcile")(reconcile.reconcile)
app.add_typer(shadow.app, name="shadow")
app.command("status")(status.status)
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(api_keys.app, name="api-keys")
app.add_typer(config.app, name="config")
app.command("migrate")(database.migrate)
app.command("uninstall")(database.uninstall)
app.command("doctor")(doctor.doctor)
app.command("health")(health.health)
app.command("drain")(drain.drain)
app.command("demo")(demo.demo)
