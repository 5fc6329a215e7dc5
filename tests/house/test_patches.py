"""What leans on a library's private parts says which version was read, and a test of its own watches the parts."""

import ast
import re
from pathlib import Path

import pytest

from tests.fixtures.workers import ROOT

PINNED = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
READ = re.compile(r"(celery|kombu|billiard|amqp|flower|prometheus_client) (\d[\d.]*\d)")
BROKER = ROOT / "relay_billing" / "broker"
PATCHES = [*sorted((ROOT / "worker" / "patches").glob("[!_]*.py")), BROKER / "filesystem.py", BROKER / "posting.py"]


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_patch_names_the_version_that_is_pinned_and_the_public_way(path: Path) -> None:
    told = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    versions = READ.findall(told.partition("Read in ")[2])
    assert versions, "says `Read in LIBRARY VERSION`"
    for library, version in versions:
        pinned = PINNED[library]
        assert f"{pinned}.".startswith(f"{version}."), f"{library} {pinned} is pinned: read its part anew"
    assert "tried first" in told.lower()


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_patch_has_a_test_of_its_own(path: Path) -> None:
    assert (ROOT / "tests" / "unit" / path.parent.name / f"test_{path.stem}.py").is_file()
