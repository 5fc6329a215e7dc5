"""What operators type; a file a noun."""

import typer

from worker.cli import accounts, books, config, database, dead_letters, process, sessions, status, webhooks
from worker.cli.commands import NEGATIVE, Commands
from worker.demo import command

app = typer.Typer(
    cls=Commands,
    help="Operate relay-billing: the tables, the books, the processes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(sessions.app, name="sessions")
app.add_typer(accounts.users, name="users")
app.add_typer(accounts.tokens, name="tokens")
app.command("top-up", context_settings=NEGATIVE)(accounts.top_up)
app.add_typer(dead_letters.app, name="dead-letters")
app.command("reconcile")(books.reconcile)
app.command("status")(status.status)
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(config.app, name="config")
app.command("migrate")(database.migrate)
app.command("health")(process.health)
app.command("drain")(process.drain)
app.command("demo")(command.demo)
