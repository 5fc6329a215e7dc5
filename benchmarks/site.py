"""The servers of a benchmark: a PostgreSQL with durability on, Redis and RabbitMQ, all its own, and what is in them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, create_engine, insert, text

from benchmarks import baselines
from benchmarks.measure import USERS, evenly
from relay_billing import Ledger, Policy, PreConsume, migrations
from relay_billing.schema import tokens, user_subscriptions, users
from relay_billing.store.drivers import engine_of
from tests.faults.postgres import Postgres
from tests.fixtures.brokers import MAKERS, Broker
from tests.fixtures.waiting import until

ROOT = Path(__file__).parents[1]
WEALTH = 10**12
FOREVER = 4_000_000_000
POLICY = Policy(trust_quota=0)
BATCH = 500
WAL_MIB, SEGMENT_MIB = 1024, 16


@dataclass(frozen=True, slots=True)
class Site:
    """Where a benchmark runs."""

    folder: Path
    url: str
    port: int
    brokers: dict[str, Broker]

    @property
    def dsn(self) -> str:
        """The address as the driver itself wants it."""
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    def engine(self, connections: int = 5) -> Engine:
        """A pool of so many connections."""
        return create_engine(self.url, pool_size=connections, max_overflow=0)

    def settle_down(self) -> None:
        """Make it like a server that has run for days: plans for the tables as they are, and log files to use again.

        A new server makes each file of its write-ahead log anew, for which every commit waits some 40 ms.
        """
        engine = self.engine()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for setting in ("min_wal_size", "max_wal_size"):
                connection.execute(text(f"ALTER SYSTEM SET {setting} = '{WAL_MIB} MB'"))
            connection.execute(text("SELECT pg_reload_conf()"))
            connection.execute(text("VACUUM ANALYZE"))
            for _ in range(WAL_MIB // SEGMENT_MIB):
                connection.execute(text("SELECT pg_logical_emit_message(false, 'bench', 'x'), pg_switch_wal()"))
            connection.execute(text("CHECKPOINT"))
        engine.dispose()


def fill(url: str, sessions: int) -> None:
    """Users with a token each, as many with a subscription, and sessions of the past."""
    engine = engine_of(url)
    everybody = range(1, USERS + 1)
    with engine.begin() as connection:
        migrations.upgrade(connection)
        # The second half of the ids are the subscribers.
        rows = [{"id": of, "quota": WEALTH} for of in range(1, 2 * USERS + 1)]
        connection.execute(insert(users), rows)
        keys = [{"id": row["id"], "user_id": row["id"], "key": f"k{row['id']}", "remain_quota": WEALTH} for row in rows]
        connection.execute(insert(tokens), keys)
        bought = [{"user_id": USERS + of, "amount_total": WEALTH, "end_time": FOREVER} for of in everybody]
        connection.execute(insert(user_subscriptions), bought)
    baselines.make_tables(engine)
    ledger = Ledger(engine, POLICY)
    for start in range(0, sessions, BATCH):
        past = [PreConsume(f"past-{start + number}", evenly(), None, 1, playground=True) for number in range(BATCH)]
        ledger.pre_consume_many(past)
    engine.dispose()


@contextmanager
def opened(brokers: tuple[str, ...] = (), sessions: int = 10_000, shared_buffers: str = "128MB") -> Iterator[Site]:
    """Servers for one run, gone with it."""
    with tempfile.TemporaryDirectory(prefix="billing-bench-") as name:
        folder = Path(name)
        # The server of PostgreSQL runs as another user.
        folder.chmod(0o755)
        started = {}
        postgres = Postgres(folder)
        postgres.create()
        with open(postgres.data / "postgresql.conf", "a") as config:
            config.write(f"shared_buffers = {shared_buffers}\n")
        postgres.start()
        try:
            for broker in brokers:
                place = folder / broker
                place.mkdir()
                started[broker] = MAKERS[broker](place)
                started[broker].start()
            url = f"postgresql+psycopg://postgres@127.0.0.1:{postgres.port}/postgres"
            fill(url, sessions)
            site = Site(folder, url, postgres.port, started)
            site.settle_down()
            yield site
        finally:
            for each in started.values():
                each.stop()
            postgres.stop("immediate")


@contextmanager
def worker(
    site: Site, broker: str, app: str, queue: str, children: int = 2, options: Sequence[str] = ()
) -> Iterator[int]:
    """One worker process with so many children, ready; gives its process id. `options` are Celery's."""
    url = site.brokers[broker].url
    var = site.folder / f"var-{app}-{broker}"
    env = os.environ | {
        "BILLING_DATABASE_URL": site.url,
        "BILLING_BROKER_URL": url,
        "BILLING_VAR_DIR": str(var),
        "BILLING_TRUST_QUOTA": "0",
        "NAIVE_DATABASE_URL": site.url,
        "NAIVE_BROKER_URL": url,
    }
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        app,
        "worker",
        "-Q",
        queue,
        "-c",
        str(children),
        "-l",
        "INFO",
        "-n",
        f"{app}@%h",
        *options,
    ]
    log = site.folder / f"{app}-{broker}.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    try:
        until(lambda: " ready" in log.read_text(errors="replace"), 60, f"{app} ready: see {log}")
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)
