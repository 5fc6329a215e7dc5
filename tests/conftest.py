"""Fixtures live in modules of their own."""

import pytest

pytest_plugins = [
    # Each before those that import it: its assertions could not be rewritten later.
    "tests.fixtures.brokers",
    "tests.fixtures.poolers",
    "tests.fixtures.databases",
    "tests.fixtures.workers",
    "tests.fixtures.flower",
    "tests.fixtures.browser",
    "tests.fixtures.receiver",
    "tests.fixtures.doors",
    "tests.fixtures.looked_at",
    "tests.fixtures.relay_redis",
    "tests.fixtures.shadows",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--lives N`: how long the state machine searches."""
    parser.addoption("--lives", type=int, default=60, help="random lives of sessions to try on each database")
