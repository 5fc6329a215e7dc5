"""Holds a second on MariaDB: ours on the general path, against the naive ORM on the same server."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.holds import async_client, client, orm
from benchmarks.measure import Scenario, evenly, hot
from benchmarks.site import fill
from tests.faults.mariadb import MariaDB

SESSIONS = 10_000
HOT = "one hot wallet, "
SETTINGS = ("version", "innodb_flush_log_at_trx_commit", "innodb_buffer_pool_size", "tx_isolation")


@contextmanager
def opened() -> Iterator[MariaDB]:
    """A server with durability on, as it comes, with users and sessions of the past; gone with the run."""
    with tempfile.TemporaryDirectory(prefix="billing-bench-") as folder:
        server = MariaDB(Path(folder))
        server.create()
        server.start()
        try:
            fill(server.url, SESSIONS)
            yield server
        finally:
            server.stop("immediate")


def name(callers: int, spread: str = "") -> str:
    """What the comparison is called."""
    return f"MariaDB, {spread}{callers} callers"


def scenarios(server: MariaDB) -> list[Scenario]:
    """What is compared."""
    url = server.url
    found = [
        Scenario(
            name(1),
            "MariaDB",
            1,
            {"BillingClient": client(url, 1, evenly), "naive ORM": orm(url, 1, evenly)},
        )
    ]
    for spread, who in (("", evenly), (HOT, hot)):
        ways = {"AsyncBillingClient": async_client(url, 64, who), "naive ORM": orm(url, 64, who)}
        found.append(Scenario(name(64, spread), "MariaDB", 64, ways))
    return found


def machine(server: MariaDB) -> dict[str, str]:
    """The server, and how it is set."""
    return {each: str(server.asked(f"SELECT @@GLOBAL.{each} AS found")["found"]) for each in SETTINGS}
