"""Where the filesystem broker keeps its messages."""

from pathlib import Path

DEFAULT_FOLDER = "var/broker"


def filesystem_folder(broker_url: str) -> Path:
    """The folder of `filesystem://FOLDER` (unset: `var/broker`); created when it is first used."""
    return Path(broker_url.removeprefix("filesystem://") or DEFAULT_FOLDER)
