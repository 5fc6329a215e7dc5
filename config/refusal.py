"""A problem that ends the process: one line on standard error, and exit code 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from config.masking import masked


class Refusal(Exception):
    """A command or process can't go on. The message is one line: why, and what to do; passwords are masked."""

    def __init__(self, problem: str) -> None:
        super().__init__(masked(problem))


@contextmanager
def ends_the_process() -> Iterator[None]:
    """Block or decorator around an entry point: prints a Refusal raised inside, and exits with code 2.

    Celery logs what a signal's receiver raises and goes on, except for SystemExit: a receiver that refuses needs this.
    """
    try:
        yield
    except Refusal as refusal:
        print(f"relay-billing: {refusal}", file=sys.stderr)
        raise SystemExit(2) from None
