"""A MariaDB of the harness's own, which may be restarted in order, killed, and made to refuse writes."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pymysql

from tests.fixtures.absent import absent
from tests.fixtures.brokers import free_port
from tests.fixtures.waiting import until

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5
REFUSING_S = 3.0
"""How long a server that refuses writes does so."""
LOCK_WAIT_S = 5
"""How long it waits to begin with it, for transactions that are about to commit."""
OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--max-connections=200",
    "--character-set-server=utf8mb4",
    # What is committed is on the disk.
    "--innodb-flush-log-at-trx-commit=1",
    # Beside the data, by a name that is short enough for any folder.
    "--socket=mariadb.sock",
    "--pid-file=mariadb.pid",
)
SETUP = """
CREATE DATABASE IF NOT EXISTS billing;
CREATE USER IF NOT EXISTS billing@127.0.0.1;
GRANT ALL ON billing.* TO billing@127.0.0.1;
"""
"""Statements of a line each. The user has no right that lets it write where others may not (`read_only`)."""


class MariaDB:
    """One server in a folder, with durability on; the only one of its database."""

    def __init__(self, folder: Path, name: str = "mariadb") -> None:
        """`name`: of the folder of its data."""
        found = (
            shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin"),
            shutil.which("mariadb-install-db"),
        )
        if None in found:
            absent("MariaDB: no mariadbd or mariadb-install-db on the path")
        self._server, self._install = map(str, found)
        self.port = free_port()
        self.data = folder / name
        self.log = folder / f"{name}.log"
        self._setup = folder / f"{name}.sql"
        self._process: subprocess.Popen[bytes] | None = None
        self._options: tuple[str, ...] = ()

    @property
    def primary(self) -> "MariaDB":
        """Who takes writes."""
        return self

    @property
    def servers(self) -> tuple["MariaDB", ...]:
        """All that there are."""
        return (self,)

    def url(self, ports: Sequence[int]) -> str:
        """The address of its database; `ports`: its own, or that of what stands before it."""
        (port,) = ports
        return f"mysql+pymysql://billing@127.0.0.1:{port}/billing"

    def create(self, *options: str) -> None:
        """Make it new and empty; `options` are those of its command line, unset: none of its own."""
        self._options = options
        self._setup.write_text(SETUP)
        command = [self._install, "--no-defaults", f"--datadir={self.data}", "--auth-root-authentication-method=normal"]
        done = subprocess.run(
            [*command, "--skip-test-db", *self._as_root], capture_output=True, text=True, timeout=90, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{self._install}: {done.returncode} {done.stdout} {done.stderr}")

    @property
    def _as_root(self) -> tuple[str, ...]:
        """It refuses to run as root, unless it is told to."""
        return ("--user=root",) if os.geteuid() == 0 else ()

    def start(self) -> None:
        """Start, and recover if need be; made first where it is not there."""
        if not self.data.exists():
            self.create()
        own = ("--no-defaults", f"--datadir={self.data}", f"--port={self.port}", f"--init-file={self._setup}")
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [self._server, *own, *OPTIONS, *self._options, *self._as_root],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._serves, START_TIMEOUT_S, f"MariaDB taking connections: see {self.log}")

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text(errors="replace")
        try:
            self.asked("SELECT 1")
        except pymysql.OperationalError:
            # Not yet.
            return False
        return True

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends all sessions and writes everything out; `immediate` leaves recovery to the next start."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM if mode == "fast" else signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT_S)
        self._process = None

    def refuse_writes(self) -> bool:
        """Refuse writes for a while, as a primary that is to be replaced does; False: who holds locks prevented it."""
        try:
            self.asked(f"SET STATEMENT lock_wait_timeout = {LOCK_WAIT_S} FOR SET GLOBAL read_only = ON")
        except pymysql.OperationalError:
            return False
        time.sleep(REFUSING_S)
        self.asked("SET GLOBAL read_only = OFF")
        return True

    def asked(self, statement: str) -> object:
        """What its administrator is answered: the first column of the first row; None: there is none."""
        with (
            pymysql.connect(
                host="127.0.0.1", port=self.port, user="root", connect_timeout=CONNECT_TIMEOUT_S, autocommit=True
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            row = cursor.fetchone()
        return None if row is None else row[0]
