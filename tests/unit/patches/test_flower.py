"""Flower's command makes our site, with our options."""

import inspect

import pytest
from flower import command as flowers
from tornado.options import options

from config.settings import Settings
from worker.patches import flower


def test_flowers_command_makes_our_site_with_our_options(monkeypatch: pytest.MonkeyPatch) -> None:
    command = inspect.unwrap(flowers.flower.callback)
    monkeypatch.setattr(flowers, "Flower", flowers.Flower)
    kept = {name: getattr(options, name) for name in ("basic_auth", "address", "read_only", "debug")}
    callbacks = list(options._parse_callbacks)
    try:
        flower.register(Settings.model_validate({"flower_basic_auth": "ada:geheim,ben:geheim"}))
        assert command.__globals__["Flower"] is flower.Site
        assert "Flower" in command.__code__.co_names
        assert options.basic_auth == ["ada:geheim", "ben:geheim"]
        options.debug, options.read_only, options.address = True, False, ""
        options.run_parse_callbacks()
        assert (options.debug, options.read_only, options.address) == (False, True, flower.INSIDE)
        options.address = "192.0.2.1"
        options.run_parse_callbacks()
        assert options.address == "192.0.2.1"
    finally:
        options._parse_callbacks[:] = callbacks
        for name, value in kept.items():
            setattr(options, name, value)
