"""Fixtures live in modules of their own."""

pytest_plugins = ["tests.fixtures.databases", "tests.fixtures.brokers", "tests.fixtures.workers"]
