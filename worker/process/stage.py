"""The stage of a worker, as its state file holds it."""

from enum import StrEnum


class Stage(StrEnum):
    """The stage of a worker."""

    CONNECTING = "connecting"
    """No connection to the broker: at the start, and while the broker is away."""
    CONSUMING = "consuming"
    DRAINING = "draining"
    """It takes no more jobs, and ends when those in hand are done."""
