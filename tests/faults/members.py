"""Workers, beat, doors and relays, each a process that is started again when it ends."""

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.workers import ROOT


@dataclass(eq=False)
class Member:
    """One process, started again whenever it ends."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def start(self) -> None:
        """Start it, or start it again. The database knows it by its name."""
        self.starts += 1
        command = tuple(part.replace("{start}", str(self.starts)) for part in self.command)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**self.env, "PGAPPNAME": self.name},
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Signal it and all its children."""
        assert self.process is not None
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            # It has ended by itself; the supervisor will see it.
            return

    def kill(self) -> None:
        """SIGKILL, children too."""
        assert self.process is not None
        self.send(signal.SIGKILL)
        self.process.wait()

    def end(self, timeout_s: float) -> None:
        """SIGTERM, and wait until it has ended. Raises TimeoutExpired when it does not in time."""
        assert self.process is not None
        self.send(signal.SIGTERM)
        self.process.wait(timeout_s)

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.process is not None and self.process.poll() is not None
