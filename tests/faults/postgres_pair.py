"""Two PostgreSQL servers, by streaming replication."""

import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from tests.faults.pair import DEMOTED_S, IN_STEP_TIMEOUT_S, Pair
from tests.faults.postgres import Postgres
from tests.fixtures.waiting import until

REBUILD_TRIES, REBUILD_PAUSE_S = 8, 1.0
"""A base backup is broken off by whatever restarts the primary, which is a fault of its own here."""
OPTIONS = """
# Enough that a standby which was away for a while goes on from where it was.
wal_keep_size = '256MB'
# By default a standby looks for its primary only every 5 s, and commits wait for it.
wal_retrieve_retry_interval = '500ms'
# Files in the data folder, not in /dev/shm: what is left by a kill goes with the folder.
dynamic_shared_memory_type = 'mmap'
"""
ALL_RECEIVED = """
    SELECT count(*) FROM pg_stat_replication
    WHERE sync_state = 'sync' AND state = 'streaming' AND flush_lsn >= pg_current_wal_flush_lsn()
"""


class PostgresPair(Pair[Postgres]):
    """As Patroni does it. Who is waited for is in `synchronous_standby_names`.

    The names are cleared with each promotion, and set again when the other server has caught up.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(Postgres(folder, "database0"), Postgres(folder, "database1"))

    @property
    def ports(self) -> Sequence[int]:
        """Both servers': clients look for the one that takes writes."""
        return [server.port for server in self.servers]

    @property
    def port(self) -> int:
        """The primary's."""
        return self.primary.port

    def url(self, ports: Sequence[int]) -> str:
        """Both servers in one URL: libpq takes the one that accepts writes."""
        hosts = "&".join(f"host=127.0.0.1:{port}" for port in ports)
        return f"postgresql+psycopg://postgres@/postgres?{hosts}&target_session_attrs=read-write&connect_timeout=3"

    def start(self) -> None:
        """Make both; returns when they are in step."""
        self.primary.create(OPTIONS)
        self.primary.start()
        self._rebuild()

    def demote(self) -> None:
        """They change places in order: open sessions are refused writes (25006), and are ended some seconds later."""
        self.wait()
        old, new = self.primary, self.standby
        old.configure(default_transaction_read_only="on")
        time.sleep(DEMOTED_S)
        old.configure(default_transaction_read_only="off", primary_conninfo=new.address(old.name))
        # In order: it ends when the standby has everything, so it can follow without being copied.
        old.stop("fast")
        self._promote()
        old.follow()
        self._in_background(self._rely)

    def _promote(self) -> None:
        self.primary, self.standby = self.standby, self.primary
        self.primary.configure(synchronous_standby_names="")
        self.primary.promote()

    def _rebuild(self) -> None:
        for left in reversed(range(REBUILD_TRIES)):
            try:
                self.standby.copy(self.primary)
                break
            except RuntimeError:
                # The primary was restarted meanwhile.
                if not left:
                    raise
                time.sleep(REBUILD_PAUSE_S)
        self.standby.start()
        self._rely()

    def _rely(self) -> None:
        """From here on every commit waits for the standby; returns when it has all that came before."""
        until(self._relied_on, IN_STEP_TIMEOUT_S, "the standby named")
        until(self._in_step, IN_STEP_TIMEOUT_S, "the standby in step")

    def _relied_on(self) -> bool:
        try:
            if not self.primary.asked("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"):
                return False
            self.primary.configure(synchronous_standby_names=f"FIRST 1 ({self.standby.name})")
        except psycopg.OperationalError:
            # The primary is being restarted: the next look comes soon.
            return False
        return True

    def _in_step(self) -> bool:
        try:
            return bool(self.primary.asked(ALL_RECEIVED))
        except psycopg.OperationalError:
            # As above.
            return False
