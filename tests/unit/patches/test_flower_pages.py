"""Flower has the pages, and the methods of each, that ours stand in for."""

import pytest
from flower.urls import handlers

from worker.patches import flower_pages


def _theirs(address: str) -> type:
    """Flower's own page of an address."""
    for each in handlers:
        pattern, page = (each.regex.pattern, each.handler_class) if hasattr(each, "regex") else each[:2]
        if pattern.removesuffix("$") == address:
            assert isinstance(page, type)
            return page
    raise AssertionError(f"Flower has no page {address}")


@pytest.mark.parametrize(("address", "page"), flower_pages.PAGES)
def test_our_pages_stand_in_for_flowers_own_of_the_same_address(address: str, page: type) -> None:
    theirs = _theirs(address)
    assert issubclass(page, theirs)
    ours = {name for base in page.__mro__ if base.__module__ == flower_pages.__name__ for name in vars(base)}
    replaced = {name for name in ours if not name.startswith("__") and callable(getattr(page, name))}
    assert replaced
    assert all(callable(getattr(theirs, name, None)) for name in replaced)
