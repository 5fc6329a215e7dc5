"""What mkdocs does to pages beside rendering them: the settings' table, and links into the repository."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from config.settings import Settings

MARK = "<!-- settings -->"
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


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs for each page."""
    if MARK in markdown:
        markdown = markdown.replace(MARK, settings_table())
    return OUTSIDE.sub(r"`\1`", markdown)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Rebuild when a setting has changed, in `mkdocs serve`."""
    config.watch.append(str(Path("config").resolve()))
    return config
