"""One word for one thing: words that were given up come back neither in code nor on pages (docs/concepts.md)."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fixtures.workers import ROOT

RETIRED = {
    "letterbox": "undeliverable messages (tasks/undeliverable), or dead letters",
    "letter box": "undeliverable messages, or dead letters",
    "rejects": "dead queue (RabbitMQ's billing.dead), or: refuses",
    "deadletters": "dead_letters, dead letters",
    "topups": "top_ups, top-ups",
    "bury": "keep as a dead letter",
    "buries": "keeps as a dead letter",
    "buried": "kept as a dead letter",
    "book": "ledger, accounts or worksheet, whichever is meant",
    "books": "ledger, accounts or worksheet, whichever is meant",
    "UseCases": "flows",
    "use case": "flow",
    "use cases": "flows",
    "at once": "fast path; or: immediately, together, in one step",
    "usual hold": "plain hold",
    "told": "announced (an event); or: said, informed, reported",
    "noted": "announced, or written",
    "notice": "event, webhook",
    "notices": "events, webhooks; or: finds",
    "courier": "the task that sends webhooks",
    "couriers": "the tasks that send webhooks",
    "sign of life": "heartbeat",
    "signs of life": "heartbeats",
    "forgotten hold": "hold that nobody closed",
    "forgotten holds": "holds that nobody closed",
    "adrivers": "async_drivers",
    "metering": "metrics",
}
"""Word: what is said instead. Whole words, in any case; between the parts of one any blank, hyphen or underscore."""

BETWEEN = r"[\s_#*-]+"
"""What may stand between the parts: a line that breaks in a comment brings its `#`."""
ROOMS = ("relay_billing", "tasks", "worker", "config", "api")
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
"""Not the changelog and the decisions: they tell of their own time."""


def modules() -> list[Path]:
    """All code of the product but its migrations, which are of their own time too."""
    found = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [path for path in found if "migrations" not in path.parts]


def pattern(word: str) -> re.Pattern[str]:
    """Finds the word where no letter is before or behind it; a line may break between its parts."""
    parts = BETWEEN.join(re.escape(part) for part in word.split())
    return re.compile(f"(?<![a-z]){parts}(?![a-z])", re.IGNORECASE)


def found(word: str, paths: Sequence[Path]) -> list[str]:
    """Where the word is: `path:line`, or `path` where a file is called so."""
    search, places = pattern(word), []
    for path in paths:
        name, text = str(path.relative_to(ROOT)), path.read_text()
        places += [name] if search.search(path.stem) else []
        places += [f"{name}:{text.count(chr(10), 0, hit.start()) + 1}" for hit in search.finditer(text)]
    return places


@pytest.mark.parametrize("word", RETIRED)
def test_no_module_uses_a_word_that_was_given_up(word: str) -> None:
    assert found(word, modules()) == [], f"say instead: {RETIRED[word]}"


@pytest.mark.parametrize("word", RETIRED)
def test_no_page_uses_a_word_that_was_given_up(word: str) -> None:
    assert found(word, PAGES) == [], f"say instead: {RETIRED[word]}"


@pytest.mark.parametrize(
    ("word", "text", "there"),
    [
        ("letterbox", "tasks.Letterbox()", True),
        ("at once", "store.at_once", True),
        ("at once", "# two at\n    # once", True),
        ("at once", "at onceness", False),
        ("book", "books", False),
        ("books", "_books_of", True),
        ("told", "untold", False),
        ("told", "the_told", True),
    ],
)
def test_a_word_is_found_whole_whatever_it_is_joined_by(word: str, text: str, there: bool) -> None:
    assert bool(pattern(word).search(text)) is there


def test_all_rooms_and_pages_are_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in modules()} == set(ROOMS)
    assert {"README.md", "concepts.md", "semantics.md"} <= {path.name for path in PAGES}


def test_the_glossary_has_every_word_once() -> None:
    page = (ROOT / "docs" / "concepts.md").read_text()
    glossary = page[page.index("## Glossary") : page.index("## A session's states")]
    words = re.findall(r"^\| ([a-z][a-z -]+) \| .+ \|$", glossary, re.MULTILINE)
    words = [word for word in words if word != "word"]
    assert len(words) > 40
    assert len(words) == len(set(words))
    assert [word for word in words for retired in RETIRED if pattern(retired).fullmatch(word)] == []
