"""A MariaDB of the harness's own, which may be restarted in order, and killed."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pymysql

from tests.fixtures.absent import absent
from tests.fixtures.brokers import free_port
from tests.fixtures.waiting import until

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5
NAME = "billing"
"""Of the database, and of the user who has it: without the right to write where others may not (`read_only`)."""
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
SETUP = f"""
SET SESSION sql_log_bin = 0;
CREATE DATABASE IF NOT EXISTS {NAME};
CREATE USER IF NOT EXISTS {NAME}@127.0.0.1;
GRANT ALL ON {NAME}.* TO {NAME}@127.0.0.1;
"""
"""A statement a line, at every start, and in no log that a standby reads."""


class MariaDB:
    """One server in a folder, with durability on."""

    def __init__(self, folder: Path, name: str = "mariadb", *options: str) -> None:
        """`name`: of the folder of its data; `options`: of its command line, beside `OPTIONS`."""
        path = f"{os.environ.get('PATH', '')}:/usr/sbin"
        server, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
        if server is None or install is None:
            absent("MariaDB: no mariadbd or no mariadb-install-db on the path")
        self._server, self._install = server, install
        self.port = free_port()
        self.data = folder / name
        self.log = folder / f"{name}.log"
        self._setup = folder / f"{name}.sql"
        self._options = options
        self._configured: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of its database."""
        return f"mysql+pymysql://{NAME}@127.0.0.1:{self.port}/{NAME}"

    @property
    def _as_root(self) -> tuple[str, ...]:
        """It refuses to run as root, unless it is told to."""
        return ("--user=root",) if os.geteuid() == 0 else ()

    def create(self) -> None:
        """Make it new and empty; what it had is gone."""
        shutil.rmtree(self.data, ignore_errors=True)
        self._configured = {}
        self._setup.write_text(SETUP)
        command = [self._install, "--no-defaults", f"--datadir={self.data}", "--skip-test-db", *self._as_root]
        done = subprocess.run(
            [*command, "--auth-root-authentication-method=normal"],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self._install}: {done.returncode} {done.stdout} {done.stderr}")

    def start(self) -> None:
        """Start, and recover if need be."""
        configured = (f"--{name.replace('_', '-')}={value}" for name, value in self._configured.items())
        # A server that starts removes the temporary tables of others from the folder that they share.
        folders = (f"--datadir={self.data}", f"--tmpdir={self.data}")
        own = ("--no-defaults", *folders, f"--port={self.port}", f"--init-file={self._setup}")
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [self._server, *own, *OPTIONS, *self._options, *configured, *self._as_root],
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
        self._end(signal.SIGTERM if mode == "fast" else signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL: no session is told anything."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def configure(self, **options: str) -> None:
        """Change its options, effective immediately and kept when it starts again."""
        self._configured |= options
        for name, value in options.items():
            self.asked(f"SET GLOBAL {name} = {value}")

    def asked(self, statement: str) -> Mapping[str, object]:
        """The first row that its administrator is answered, by column; empty: there is none."""
        with (
            pymysql.connect(
                host="127.0.0.1", port=self.port, user="root", connect_timeout=CONNECT_TIMEOUT_S, autocommit=True
            ) as connection,
            connection.cursor(pymysql.cursors.DictCursor) as cursor,
        ):
            cursor.execute(statement)
            return cursor.fetchone() or {}
