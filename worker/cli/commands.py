"""The group of all commands: an error in a command line is one line on standard error, and exit code 2."""

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from config.refusal import Refusal, ends_the_process

NEGATIVE = {"ignore_unknown_options": True}
"""For a command that takes an amount: `-5` is reported as a wrong amount, not as an unknown option."""


class Commands(TyperGroup):
    """Typer's group, without its box around errors."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Run one command and end the process with its exit code: 0, 1 for no or not done, 2 for a refusal."""
        with ends_the_process():
            try:
                code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            except typer.TyperException as error:
                words = " ".join(error.format_message().split())
                raise Refusal(f"{words or 'a command is needed'}; `--help` tells more") from None
            except typer.Abort:
                print("relay-billing: nothing was done", file=sys.stderr)
                code = 1
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code
