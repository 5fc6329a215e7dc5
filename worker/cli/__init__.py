"""What operators type; a file a noun."""

import typer

from worker.cli import books, database, dead_letters, process, status, webhooks
from worker.demo import command

app = typer.Typer(
    help="Operate relay-billing: the tables, the books, the processes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("migrate")(database.migrate)
app.command("reconcile")(books.reconcile)
app.add_typer(dead_letters.app, name="dead-letters")
app.command("status")(status.status)
app.add_typer(webhooks.app, name="webhooks")
app.command("health")(process.health)
app.command("drain")(process.drain)
app.command("demo")(command.demo)
