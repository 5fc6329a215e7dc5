"""A signal is heeded even where Python swallows the exception that it raises."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from worker.cli import status
from worker.monitoring.snapshot import Snapshot
from worker.stop import Stop


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """The handlers of the process that runs the tests, put back."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


class Collected:
    """What is collected when the signal comes: what it raises then is only printed."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def swallow() -> None:
    """Have a signal come at such a moment."""
    one = Collected()
    del one


SWALLOWED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@SWALLOWED
def test_a_signal_that_was_swallowed_is_heeded_at_the_next_step() -> None:
    stop = Stop(signal.SIGINT)
    stop.check()
    swallow()
    with pytest.raises(KeyboardInterrupt):
        stop.check()


def test_a_signal_that_is_not_asked_for_keeps_its_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    Stop(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


@SWALLOWED
def test_status_is_watched_no_longer_though_the_interrupt_came_while_it_looked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks = 0

    def look(settings: Settings) -> status._Seen:
        nonlocal looks
        looks += 1
        assert looks == 1, "it goes on"
        swallow()
        return seen

    seen = status._Seen(0, (), Snapshot(None, "away", (), "away"))
    monkeypatch.setattr(status, "_look", look)
    monkeypatch.setattr(status, "REFRESH_S", 0.01)
    status._watch(Settings(var_dir=str(tmp_path)), seen)
    assert looks == 1
