"""What is written about the code is true of it."""

import ast
import re
from pathlib import Path

import pytest

from config.settings import Settings
from relay_billing import Policy
from tests.fixtures.workers import ROOT

MODULES = sorted((ROOT / "relay_billing").rglob("*.py"))
SECTIONS = set(re.findall(r"^## (\d+)\.", (ROOT / "docs" / "semantics.md").read_text(), re.MULTILINE))


def shown(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


SETTINGS = {f"BILLING_{name.upper()}": shown(field.default) for name, field in Settings.model_fields.items()}


def test_the_page_of_settings_lists_every_one_with_its_default_and_meaning() -> None:
    rows = re.findall(
        r"^\| `(BILLING_\w+)` \| `(.*?)` \| (.+) \|$", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE
    )
    assert {name: default for name, default, _ in rows} == SETTINGS
    meanings = {f"BILLING_{name.upper()}": field.description for name, field in Settings.model_fields.items()}
    assert {name: meaning for name, _, meaning in rows} == meanings


def test_the_example_env_file_lists_every_setting_with_its_default() -> None:
    lines = re.findall(r"^# (BILLING_\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert dict(lines) == SETTINGS


def test_every_knob_of_the_policy_is_a_setting_with_the_same_default() -> None:
    policy = Policy()
    defaults = {name: Settings.model_fields[name].default for name in Policy.field_names()}
    assert defaults == {name: getattr(policy, name) for name in Policy.field_names()}


def _undocumented(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    found = [] if ast.get_docstring(tree) or not tree.body else [path.name]
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    outer = [node for node in tree.body if isinstance(node, kinds)]
    inner = [
        each
        for node in outer
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for each in node.body
        if isinstance(each, kinds)
    ]
    for node in (*outer, *inner):
        if not node.name.startswith("_") and not ast.get_docstring(node):
            found.append(f"{path.name}:{node.lineno} {node.name}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_public_says_what_it_is_for(path: Path) -> None:
    assert _undocumented(path) == []


def test_every_section_that_the_code_cites_is_written() -> None:
    cited = {number for path in MODULES for number in re.findall(r"§(\d+)", path.read_text())}
    assert cited
    assert cited <= SECTIONS == {str(number) for number in range(1, 14)}


def test_the_figures_of_the_readme_are_those_of_the_page_of_performance() -> None:
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/performance.md"))
    measured = readme[readme.index("## Measured") : readme.index("## More")]
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| (.+) \|$", measured, re.MULTILINE)
    figures = {rate for rate, _ in rows} | {times for _, ratios in rows for times in re.findall(r"\d+\.\d", ratios)}
    assert len(rows) >= 5
    assert {each for each in figures if not re.search(rf"(?<![\d.,]){re.escape(each)}(?![\d,])", page)} == set()


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_what_the_documents_link_to_is_there() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []
