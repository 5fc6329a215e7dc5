"""What mkdocs does to pages beside rendering them: the settings' table, files, and links into the repository."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from config.settings import Settings

MARK = "<!-- settings -->"
FILE = re.compile(r"<!-- file (\S+?\.(\w+)) -->")
"""Put here what is in that file. Not by an extension's own mark in a block of code: ruff formats those blocks."""
OUTSIDE = re.compile(r"\[`?([^]`]+)`?\]\((?:\.\./)+(?!docs/)[^)]+\)")
"""A link to a file beside `docs/`: good where the repository is read, and not in the site."""


def settings_table() -> str:
    """Every setting with its default and its meaning, as the code has them."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        shown = f"`{default}`" if default else "unset"
        # Descriptions are README's, so they link from there.
        meaning = (field.description or "").replace("](docs/", "](")
        rows.append(f"| `BILLING_{name.upper()}` | {shown} | {meaning} |")
    return "\n".join(rows)


def shown(file: re.Match[str]) -> str:
    """A file of the repository as a block of code. Raises OSError where there is none."""
    return f'```{file[2]} title="{file[1]}"\n{Path(file[1]).read_text()}```'


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs for each page."""
    if MARK in markdown:
        markdown = markdown.replace(MARK, settings_table())
    return FILE.sub(shown, OUTSIDE.sub(r"`\1`", markdown))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Rebuild when a setting has changed, in `mkdocs serve`."""
    config.watch.append(str(Path("config").resolve()))
    return config
