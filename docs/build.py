"""What mkdocs does to pages beside rendering them: files, and links into the repository."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

FILE = re.compile(r"<!-- file (\S+?\.(\w+)) -->")
"""Put here what is in that file. Not by an extension's own mark in a block of code: ruff formats those blocks."""
OUTSIDE = re.compile(r"\[`?([^]`]+)`?\]\((?:\.\./)+(?!docs/)[^)]+\)")
"""A link to a file beside `docs/`: good where the repository is read, and not in the site."""


def shown(file: re.Match[str]) -> str:
    """A file of the repository as a block of code. Raises OSError where there is none."""
    return f'```{file[2]} title="{file[1]}"\n{Path(file[1]).read_text()}```'


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs for each page."""
    return FILE.sub(shown, OUTSIDE.sub(r"`\1`", markdown))
