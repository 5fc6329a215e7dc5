"""The commands of a page, typed one block after the other into one shell."""

import os
import re
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
NUMBER = re.compile(r"[+-]?\$?\d[\d,.:]*")


@dataclass(frozen=True, slots=True)
class Step:
    """A block of commands, and what the page shows of what they print."""

    section: str
    commands: str
    shown: tuple[str, ...]


def steps(page: str) -> list[Step]:
    """All blocks `sh` of a page, in order; a block `text` after one is what it prints."""
    found: list[Step] = []
    parts = SECTION.split(page)
    for section, text in zip(parts[1::2], parts[2::2], strict=True):
        for language, block in BLOCK.findall(text):
            if language == "sh":
                found.append(Step(section, block, ()))
            else:
                found[-1] = Step(section, found[-1].commands, tuple(block.splitlines()))
    return found


def bare(line: str) -> str:
    """A line without what differs from run to run: numbers, and how far they are set in."""
    return " ".join(NUMBER.sub("N", line).split())


class Shell:
    """A bash that ends at the first command that fails."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._folder, self._steps = folder, 0
        self._bash = subprocess.Popen(
            ("bash", "-eu"),
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def type(self, commands: str, timeout_s: float) -> str:
        """Run a block to its end; what it said. Raises AssertionError where a command fails, or takes too long."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._steps += 1
        log = self._folder / f"typed-{self._steps}.log"
        self._bash.stdin.write(f"{{\n{commands}\n}} > {log} 2>&1\necho\n".encode())
        self._bash.stdin.flush()
        deadline = time.monotonic() + timeout_s
        ready, _, _ = select.select([self._bash.stdout], [], [], max(0, deadline - time.monotonic()))
        done = bool(ready) and os.read(self._bash.stdout.fileno(), 1) == b"\n"
        said = log.read_text() if log.exists() else ""
        assert done, f"{commands}\nfailed, or took longer than {timeout_s} s, and said:\n{said}"
        return said

    def end(self) -> None:
        """End it and all that it started."""
        try:
            os.killpg(self._bash.pid, signal.SIGKILL)
        except ProcessLookupError:
            # It has ended, and all of it.
            assert self._bash.poll() is not None
        self._bash.wait()
        for pipe in (self._bash.stdin, self._bash.stdout):
            if pipe is not None:
                pipe.close()
