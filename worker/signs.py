"""What each worker of this host says of itself, in a file of its own: whether it takes jobs. For health and drain."""

import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from worker.health import STALE_AFTER_S

DRAIN_FILE = "drain"


class Stage(StrEnum):
    """How far a worker is."""

    CONNECTING = "connecting"
    """It has no broker: at the start, and while the broker is away."""
    CONSUMING = "consuming"
    DRAINING = "draining"
    """It takes no more jobs, and ends when those in hand are done."""


@dataclass(frozen=True, slots=True)
class WorkerSign:
    """What one worker of this host last said."""

    pid: int
    stage: Stage
    age_s: float


def alive(pid: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Somebody else's, but it lives.
        return True
    return True


def _folder(var_dir: str) -> Path:
    return Path(var_dir) / "workers"


def workers(var_dir: str) -> list[WorkerSign]:
    """The workers of this host that live, by process id."""
    found = []
    for file in _folder(var_dir).glob("[0-9]*"):
        try:
            stage, age = Stage(file.read_text()), time.time() - file.stat().st_mtime
        except (FileNotFoundError, ValueError):
            # It ended, or is writing, while we looked.
            continue
        if age < STALE_AFTER_S and alive(int(file.name)):
            found.append(WorkerSign(int(file.name), stage, max(0.0, age)))
    return sorted(found, key=lambda each: each.pid)


def ask_to_drain(var_dir: str) -> None:
    """Ask every worker of this host that runs now to stop taking jobs, finish, and end."""
    _folder(var_dir).mkdir(parents=True, exist_ok=True)
    (_folder(var_dir) / DRAIN_FILE).touch()


class Sign:
    """This worker's own."""

    def __init__(self, var_dir: str) -> None:
        self._folder = _folder(var_dir)
        self._began = time.time()
        self.stage = Stage.CONNECTING

    @property
    def _file(self) -> Path:
        return self._folder / str(os.getpid())

    def say(self, stage: Stage) -> None:
        """Write how far this worker is; one that drains never consumes again."""
        if self.stage is not Stage.DRAINING:
            self.stage = stage
        self._folder.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: readers come at any time.
        beside = self._file.with_suffix(".new")
        beside.write_text(self.stage.value)
        beside.replace(self._file)

    def touch(self) -> None:
        """It still holds."""
        try:
            os.utime(self._file)
        except FileNotFoundError:
            self.say(self.stage)

    def asked_to_drain(self) -> bool:
        """Whether somebody has asked since this worker began."""
        try:
            return (self._folder / DRAIN_FILE).stat().st_mtime > self._began
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """This worker ends."""
        self._file.unlink(missing_ok=True)
