"""Two MariaDB servers, by semi-synchronous replication, and what leads clients to the one that takes writes."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pymysql

from tests.faults.mariadb import NAME, MariaDB
from tests.faults.pair import DEMOTED_S, IN_STEP_TIMEOUT_S, Pair
from tests.faults.proxy import Proxy
from tests.fixtures.waiting import until

COPY_TIMEOUT_S = 60
COPY_TRIES, COPY_PAUSE_S = 8, 1.0
"""A copy is broken off by whatever restarts the primary, which is a fault of its own here."""
OPTIONS = (
    "--log-bin=log",
    "--log-slave-updates",
    "--binlog-format=ROW",
    "--sync-binlog=1",
    "--rpl-semi-sync-slave-enabled=ON",
    # Before the commit is seen by others, and for as long as it takes: by default it is given up after 10 s.
    "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
    "--rpl-semi-sync-master-timeout=86400000",
    # Who has just started finds out soon that its primary is there again; by default it looks every 60 s.
    "--slave-net-timeout=10",
)
FOLLOW = """
    CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'root',
        MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1
"""


class MariaDBPair(Pair[MariaDB]):
    """As MaxScale does it: a router leads every connection to the primary, for the driver knows one host.

    Who is waited for is whoever follows, from the moment when it has caught up (`rpl_semi_sync_master_enabled`).
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(*(MariaDB(folder, f"database{of}", f"--server-id={of + 1}", *OPTIONS) for of in range(2)))
        self._router = Proxy(self.primary.port)

    @property
    def ports(self) -> Sequence[int]:
        """The router's."""
        return (self._router.port,)

    @property
    def port(self) -> int:
        """The router's."""
        return self._router.port

    def url(self, ports: Sequence[int]) -> str:
        """The router's address, or that of what stands before it."""
        (port,) = ports
        return f"mysql+pymysql://{NAME}@127.0.0.1:{port}/{NAME}"

    def start(self) -> None:
        """Make both; returns when they are in step."""
        self.primary.create()
        self.primary.start()
        self._rebuild()

    def demote(self) -> None:
        """They change places in order: open sessions are refused writes (1290), and are ended some seconds later."""
        self.wait()
        old = self.primary
        old.configure(read_only="ON")
        time.sleep(DEMOTED_S)
        self._caught_up()
        old.configure(rpl_semi_sync_master_enabled="OFF")
        old.stop("fast")
        self._promote()
        old.start()
        old.asked("SET GLOBAL gtid_slave_pos = @@gtid_binlog_pos")
        self._follow()
        self._in_background(self._rely)

    def _promote(self) -> None:
        new = self.standby
        new.asked("STOP SLAVE IO_THREAD")
        self._applied(str(new.asked("SHOW SLAVE STATUS")["Gtid_IO_Pos"]))
        new.asked("STOP SLAVE")
        new.asked("RESET SLAVE ALL")
        new.configure(read_only="OFF")
        self.primary, self.standby = new, self.primary
        self._router.target = new.port
        self._router.cut()

    def _applied(self, position: str) -> bool:
        """Whether the standby has come so far, after a while."""
        found = self.standby.asked(f"SELECT MASTER_GTID_WAIT('{position}', {IN_STEP_TIMEOUT_S}) AS late")
        return found["late"] == 0

    def _rebuild(self) -> None:
        self.standby.create()
        self.standby.start()
        self.standby.configure(read_only="ON")
        for left in reversed(range(COPY_TRIES)):
            try:
                self._copy()
                break
            except RuntimeError:
                # The primary was restarted meanwhile.
                if not left:
                    raise
                time.sleep(COPY_PAUSE_S)
        self._follow()
        self._rely()

    def _copy(self) -> None:
        """Give the standby all that the primary has, with the position in its log that this is of."""
        of = ("--no-defaults", "--host=127.0.0.1", "--user=root")
        dump = ["mariadb-dump", *of, f"--port={self.primary.port}", "--single-transaction", "--master-data=1", "--gtid"]
        load = ["mariadb", *of, f"--port={self.standby.port}", "--init-command=SET sql_log_bin = 0", NAME]
        dumped = subprocess.run([*dump, NAME], capture_output=True, timeout=COPY_TIMEOUT_S, check=False)
        loaded = subprocess.run(load, input=dumped.stdout, capture_output=True, timeout=COPY_TIMEOUT_S, check=False)
        if dumped.returncode or loaded.returncode:
            raise RuntimeError(f"not copied: {(dumped.stderr + loaded.stderr).decode()}")

    def _follow(self) -> None:
        self.standby.asked(FOLLOW.format(port=self.primary.port))
        self.standby.asked("START SLAVE")

    def _rely(self) -> None:
        """From here on every commit waits for the standby; returns when it has all that came before."""
        until(self._relied_on, IN_STEP_TIMEOUT_S, "the standby waited for")
        until(self._caught_up, IN_STEP_TIMEOUT_S, "the standby in step")

    def _relied_on(self) -> bool:
        try:
            clients = self.primary.asked("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_clients'")["Value"]
            if clients == "0":
                return False
            self.primary.configure(rpl_semi_sync_master_enabled="ON")
        except pymysql.OperationalError:
            # The primary is being restarted: the next look comes soon.
            return False
        return True

    def _caught_up(self) -> bool:
        try:
            return self._applied(str(self.primary.asked("SELECT @@gtid_binlog_pos AS position")["position"]))
        except pymysql.OperationalError:
            # As above.
            return False

    def stop(self) -> None:
        """End both, and the router."""
        super().stop()
        self._router.close()
