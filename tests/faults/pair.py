"""Two PostgreSQL servers: a primary, and a standby that has all that was promised."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg

from tests.faults.postgres import Postgres
from tests.fixtures.brokers import answers
from tests.fixtures.waiting import until

IN_STEP_TIMEOUT_S = 90.0
"""The longest that a standby may take to be made anew and to have caught up."""
REBUILD_TRIES, REBUILD_PAUSE_S = 8, 1.0
"""A base backup is broken off by whatever restarts the primary, which is a fault of its own here."""
DEMOTED_S = 3.0
"""How long a primary that is to become a standby refuses writes in sessions that stay open."""
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


class Pair:
    """What an operator, or Patroni, does with two servers.

    A commit returns when the standby has it on disk (`synchronous_standby_names`), so a standby that is promoted has
    all that was promised. While there is no standby, none is waited for: the names are cleared with each promotion,
    and set again when the other server has caught up. Only then may the next failover come.
    """

    def __init__(self, folder: Path) -> None:
        self.primary, self.standby = Postgres(folder, "database0"), Postgres(folder, "database1")
        self.servers = (self.primary, self.standby)
        self._joining: threading.Thread | None = None
        self._failed: Exception | None = None

    def url(self, ports: Sequence[int]) -> str:
        """Both servers in one URL: libpq takes the one that accepts writes."""
        hosts = "&".join(f"host=127.0.0.1:{port}" for port in ports)
        return f"postgresql+psycopg://postgres@/postgres?{hosts}&target_session_attrs=read-write&connect_timeout=3"

    def start(self) -> None:
        """Make both; returns when they are in step."""
        self.primary.create(OPTIONS)
        self.primary.start()
        self._rebuild()

    def failover(self, how: Callable[[Postgres], None]) -> None:
        """The primary dies as `how` says, the standby is promoted; the dead one is rebuilt in the background."""
        self.wait()
        how(self.primary)
        self._promote()
        self._in_background(self._rebuild)

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

    def _in_background(self, work: Callable[[], None]) -> None:
        def carry_out() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001, told by `wait`, in the thread of who waits
                self._failed = error

        self._joining = threading.Thread(target=carry_out, name="standby")
        self._joining.start()

    def wait(self) -> None:
        """Return when the standby is in step again. Raises what kept it from being so."""
        if self._joining is not None:
            self._joining.join(2 * IN_STEP_TIMEOUT_S)
            assert not self._joining.is_alive(), "the standby is still being made"
        if self._failed is not None:
            raise self._failed

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

    def stop(self) -> None:
        """End both."""
        if self._joining is not None:
            self._joining.join(2 * IN_STEP_TIMEOUT_S)
        for server in self.servers:
            if answers(server.port):
                server.stop("immediate")
