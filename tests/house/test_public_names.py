"""A file is one noun, with one to three public names; those that have more have a reason."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("relay_billing", "config", "tasks", "worker", "api")
MOST, MOST_FILES, MOST_LINES = 3, 10, 300

WITH_MORE = {
    "relay_billing/domain/checks.py": "one check for each kind of value, all of the same form",
    "relay_billing/domain/errors.py": "the tree of errors is drawn and read in one place",
    "relay_billing/flows/dead_letters.py": "what an operator can do about a dead letter, with the rows it works on",
    "relay_billing/flows/overview.py": "one overview, and the values that it is made of",
    "relay_billing/flows/webhooks.py": "the life of a webhook's row, from its claim to its purge",
    "relay_billing/migrations/__init__.py": "up, down, and both ends of the way",
    "relay_billing/store/drivers.py": "one transaction, its attempts, and the engine that it runs on",
    "relay_billing/store/failures.py": "one list of what database errors ask for",
    "relay_billing/store/pipeline.py": "the same statements sent sync and async, together and alone",
    "relay_billing/store/waits.py": "every bound on a wait for the database",
}


def files() -> dict[str, Path]:
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "versions" not in path.parts]
    return {str(path.relative_to(ROOT)): path for path in sorted(found)}


def public_names(path: Path) -> list[str]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text())
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def test_few_files_have_more_than_three_public_names_and_each_has_its_reason() -> None:
    more = {name for name, path in files().items() if len(public_names(path)) > MOST}
    assert more == set(WITH_MORE)
    assert len(WITH_MORE) <= MOST_FILES


def test_no_file_is_longer_than_one_noun_takes() -> None:
    long = {name: lines for name, path in files().items() if (lines := path.read_text().count("\n")) > MOST_LINES}
    assert long == {}
