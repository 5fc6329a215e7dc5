"""The site can be built, fetches nothing, and answers every alert."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from config.settings import Settings
from tests.fixtures.workers import ROOT

FROM_ELSEWHERE = re.compile(r"""<(?:script|img|link|iframe)[^>]+(?:src|href)=["'](?:https?:)?//[^"']+""")
ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages, built strictly, as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_setting_is_on_its_page(site: Path) -> None:
    page = (site / "settings.html").read_text()
    assert [name for name in Settings.model_fields if f"BILLING_{name.upper()}<" not in page] == []


def test_readers_fetch_nothing_from_elsewhere(site: Path) -> None:
    found = {page.name: FROM_ELSEWHERE.findall(page.read_text()) for page in site.rglob("*.html")}
    assert len(found) > 10
    assert {name: links for name, links in found.items() if links} == {}


def test_examples_are_on_their_pages_as_they_are_run(site: Path) -> None:
    shown = {"integrating.html": "async def closed", "index.html": "billing.pre_consume", "wire.html": "delivery_tag"}
    for page, words in shown.items():
        text = re.sub(r"<[^>]+>", "", (site / page).read_text())
        assert words in text, page


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_has_its_section_in_the_runbook(site: Path, alert: dict[str, dict[str, str]]) -> None:
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert page.endswith("docs/runbook.md")
    assert f'id="{anchor}"' in (site / "runbook.html").read_text()
    assert f"`{alert['alert']}`" in (ROOT / "docs" / "runbook.md").read_text()
