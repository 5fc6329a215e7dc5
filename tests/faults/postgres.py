"""A PostgreSQL of the harness's own, which may be restarted, stopped at once, and killed."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.fixtures.absent import absent
from tests.fixtures.brokers import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


class Postgres:
    """One cluster in a folder, with durability on. It refuses to run as root, so there it runs as `postgres`."""

    def __init__(self, folder: Path) -> None:
        if not BINARIES:
            absent("PostgreSQL: no /usr/lib/postgresql/*/bin")
        self.bin = BINARIES[-1]
        self.port = free_port()
        self.data = folder / "postgres"
        self.user = "postgres" if os.geteuid() == 0 else None
        self.data.mkdir()
        if self.user:
            shutil.chown(self.data, self.user)
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
        options = f"port={self.port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories=''\nmax_connections=120\n"
        with open(self.data / "postgresql.conf", "a") as config:
            config.write(options)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.bin / program), "--pgdata", str(self.data), *arguments]
        home = pwd.getpwnam(self.user).pw_dir if self.user else str(Path.home())
        subprocess.run(
            command,
            user=self.user,
            cwd="/",
            env={**os.environ, "HOME": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=90,
        )

    def start(self) -> None:
        """Start, and recover if need be."""
        self._run("pg_ctl", "start", "--wait", "--timeout=60", "--silent", f"--log={self.data / 'server.log'}")

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends all sessions, `immediate` leaves recovery to the next start."""
        self._run("pg_ctl", "stop", f"--mode={mode}", "--wait", "--timeout=60", "--silent")
