"""Options that many commands have."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def ask(question: str, yes: bool) -> None:
    """Go on only if the operator agrees or has given `--yes`; else the command ends with exit code 1."""
    if not yes:
        typer.confirm(question, abort=True, err=True)
