"""Fixtures live in modules of their own."""

import pytest

pytest_plugins = [
    "tests.fixtures.databases",
    "tests.fixtures.brokers",
    "tests.fixtures.workers",
    "tests.fixtures.flower",
    "tests.fixtures.browser",
    "tests.fixtures.receiver",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--lives N`: how long the state machine searches."""
    parser.addoption("--lives", type=int, default=60, help="random lives of sessions to try on each database")
