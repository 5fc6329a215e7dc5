"""Whose tables and calendars these are, spelt as in the settings (semantics §12)."""

from enum import StrEnum


class Accounts(StrEnum):
    """Whose account tables these are (semantics §12)."""

    OWN = "own"
    """Made by our migrations: no column is NULL, none is looked for."""
    NEW_API = "new-api"
    """A relay's own, beside which it goes on working."""


class Calendar(StrEnum):
    """Who resets and ends subscriptions (semantics §7, §12)."""

    OWN = "own"
    EXTERNAL = "external"
    """Somebody else's program: periods and status are read, never written."""
