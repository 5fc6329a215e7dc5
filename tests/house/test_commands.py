"""What the documents tell operators to type is there to be typed."""

import re
import shlex

import pytest
import typer

from tests.fixtures.workers import ROOT
from worker.cli import app

TYPED = re.compile(r"python -m worker ((?:[^`\n#&|;)\\]|\\\n)+)")
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
COMMANDS = sorted(
    {typed.strip() for page in PAGES for typed in TYPED.findall(page.read_text()) if "COMMAND" not in typed}
)


@pytest.mark.parametrize("typed", COMMANDS)
def test_every_command_of_the_documents_is_one_with_these_options(typed: str) -> None:
    command = typer.main.get_command(app)
    words = shlex.split(typed.replace("[", "").replace("]", "").replace("worker|beat", "worker"))
    # Not isinstance: typer brings a click of its own.
    while groups := getattr(command, "commands", None):
        name = words.pop(0)
        assert name in groups, f"{name} in {typed!r}"
        command = groups[name]
    known = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("-")} <= known | {"--help"}
