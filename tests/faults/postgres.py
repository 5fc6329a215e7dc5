"""A PostgreSQL of the harness's own, which may be restarted, stopped immediately, and killed."""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from tests.fixtures.absent import absent
from tests.fixtures.brokers import answers, free_port
from tests.fixtures.waiting import until

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
DEATH_TIMEOUT_S = 20.0
QUERY_TIMEOUT_S = 10
OPTIONS = "listen_addresses='127.0.0.1'\nunix_socket_directories=''\nmax_connections=120\n"


class Postgres:
    """One server in a folder, with durability on. It refuses to run as root, so there it runs as `postgres`."""

    def __init__(self, folder: Path, name: str = "postgres") -> None:
        """`name`: what it is called as a standby, and the folder of its data."""
        if not BINARIES:
            absent("PostgreSQL: no /usr/lib/postgresql/*/bin")
        self.bin = BINARIES[-1]
        self.name = name
        self.port = free_port()
        self.data = folder / name
        self.log = folder / f"{name}.log"
        self.user = "postgres" if os.geteuid() == 0 else None
        self.log.touch()
        if self.user:
            shutil.chown(self.log, self.user)

    def create(self, options: str = "") -> None:
        """Make it new and empty; `options` are lines of postgresql.conf, unset: none of its own."""
        self._clear()
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
        with open(self.data / "postgresql.conf", "a") as config:
            config.write(OPTIONS + options)

    def copy(self, primary: "Postgres") -> None:
        """Make it a standby of `primary`, with a fresh copy of all that it has; what it had is gone."""
        self._clear()
        source = f"--dbname={primary.address(self.name)}"
        self._run("pg_basebackup", source, "--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream")

    def _clear(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        if self.user:
            shutil.chown(self.data, self.user)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.bin / program), "--pgdata", str(self.data), *arguments]
        home = pwd.getpwnam(self.user).pw_dir if self.user else str(Path.home())
        done = subprocess.run(
            command,
            user=self.user,
            cwd="/",
            env={**os.environ, "HOME": home},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "pg_basebackup" else subprocess.DEVNULL,
            timeout=90,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.returncode} {(done.stderr or b'').decode()}")

    def start(self) -> None:
        """Start, and recover if need be."""
        # The port is no part of the configuration: a standby has a copy of its primary's.
        self._run(
            "pg_ctl", "start", "--wait", "--timeout=60", "--silent", f"--log={self.log}", f"--options=-p {self.port}"
        )

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends all sessions, and sends a standby all there is; `immediate` leaves recovery to the next start."""
        self._run("pg_ctl", "stop", f"--mode={mode}", "--wait", "--timeout=60", "--silent")

    def kill(self) -> None:
        """SIGKILL, all of its processes: no session is told anything. `copy` is the way back."""
        lines = (self.data / "postmaster.pid").read_text().splitlines()
        pid, segment = int(lines[0]), lines[6].split()[1]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                # A session that has ended meanwhile.
                continue
        until(lambda: not answers(self.port), DEATH_TIMEOUT_S, f"{self.name} dead")
        # What the kernel keeps of a killed server; nobody else would take it away.
        subprocess.run(["ipcrm", "--shmem-id", segment], check=False, stderr=subprocess.DEVNULL)

    def promote(self) -> None:
        """A standby becomes a primary; it returns when it takes writes."""
        self._run("pg_ctl", "promote", "--wait", "--timeout=60", "--silent")

    def follow(self) -> None:
        """Start what was stopped in order as a standby of who `primary_conninfo` names."""
        signal_file = self.data / "standby.signal"
        signal_file.touch()
        if self.user:
            shutil.chown(signal_file, self.user)
        self.start()

    def address(self, application: str = "harness") -> str:
        """What libpq connects to it with, past every proxy."""
        return (
            f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"
            f" connect_timeout=5 application_name={application}"
        )

    def configure(self, **options: str) -> None:
        """Change its options, effective immediately."""
        with psycopg.connect(self.address(), autocommit=True) as connection:
            for name, value in options.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")

    def asked(self, question: str) -> object:
        """The first column of the first row that answers; None: there is none."""
        options = f"-c statement_timeout={QUERY_TIMEOUT_S}s"
        with psycopg.connect(self.address(), autocommit=True, options=options) as connection:
            row = connection.execute(question).fetchone()
        return None if row is None else row[0]
