"""Everything here breaks things on purpose, and takes its time."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder; by default it is left out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that another user's PostgreSQL may enter; not pytest's own, which each pytest closes to others anew."""
    with tempfile.TemporaryDirectory(prefix="billing-faults-") as made:
        Path(made).chmod(0o755)
        yield Path(made)
