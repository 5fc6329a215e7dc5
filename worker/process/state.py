"""State files: each worker of this host writes its stage to a file of its own. `health` and `drain` read them."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from worker.pid import alive
from worker.process.heartbeat import STALE_AFTER_S
from worker.process.stage import Stage

DRAIN_FILE = "drain"


def _folder(var_dir: str) -> Path:
    return Path(var_dir) / "workers"


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker of this host, as its state file shows it."""

    pid: int
    stage: Stage
    age_s: float

    @classmethod
    def all_here(cls, var_dir: str) -> "list[WorkerState]":
        """The live workers of this host, sorted by process id."""
        found = []
        for file in _folder(var_dir).glob("[0-9]*"):
            try:
                stage, age = Stage(file.read_text()), time.time() - file.stat().st_mtime
            except (FileNotFoundError, ValueError):
                # It ended, or is writing, while we looked.
                continue
            if age < STALE_AFTER_S and alive(int(file.name)):
                found.append(cls(int(file.name), stage, max(0.0, age)))
        return sorted(found, key=lambda each: each.pid)


def ask_to_drain(var_dir: str) -> None:
    """Ask every worker of this host that runs now to stop taking jobs, finish, and end."""
    _folder(var_dir).mkdir(parents=True, exist_ok=True)
    (_folder(var_dir) / DRAIN_FILE).touch()


class OwnState:
    """The state file of this process, a worker."""

    def __init__(self, var_dir: str) -> None:
        self._folder = _folder(var_dir)
        self._began = time.time()
        self.stage = Stage.CONNECTING

    @property
    def _file(self) -> Path:
        return self._folder / str(os.getpid())

    def say(self, stage: Stage) -> None:
        """Write this worker's stage. A draining worker stays draining."""
        if self.stage is not Stage.DRAINING:
            self.stage = stage
        self._folder.mkdir(parents=True, exist_ok=True)
        # Replaced in one step: a reader sees a whole file at any time, and not the one beside it, which is no number.
        beside = self._file.with_name(f"new-{self._file.name}")
        beside.write_text(self.stage.value)
        beside.replace(self._file)

    def touch(self) -> None:
        """Show that the stage is current."""
        try:
            os.utime(self._file)
        except FileNotFoundError:
            self.say(self.stage)

    def asked_to_drain(self) -> bool:
        """Whether `drain` was run since this worker began."""
        try:
            return (self._folder / DRAIN_FILE).stat().st_mtime > self._began
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove the file: this worker ends."""
        self._file.unlink(missing_ok=True)
