"""Everything that can break: servers, proxies, workers, beat and relays, all the harness's own."""

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from relay_billing import migrations
from relay_billing.domain.choices import Durability
from tests.faults.members import Member
from tests.faults.pair import Pair
from tests.faults.proxy import Proxy
from tests.faults.relay import USERS
from tests.faults.verdict import in_state, read
from tests.fixtures.accounts import given
from tests.fixtures.brokers import MAKERS, Broker
from tests.fixtures.waiting import until
from tests.fixtures.workers import environment

WEALTH = 10**12
SETTINGS = {"sweep_interval": 1, "intent_grace": 3, "visibility_timeout": 15, "unknown_session_retries": 1}
STATEMENT_TIMEOUT_S, CALL_TIMEOUT_S = 3, 5
"""Of every client of the database: short, so that a fault may outlast them."""
WORKERS, RELAYS = 2, 2
SETTLES = 100
"""Settles by which it is seen that all are at work."""


@dataclass(eq=False)
class Site:
    """All of it. `worker_app`: what `celery -A` is given; a mutation puts its own there."""

    folder: Path
    broker_name: str
    seed: int
    worker_app: str = "worker"
    relay_module: str = "tests.faults.relay"
    durability: Durability = Durability.DATABASE
    members: dict[str, Member] = field(default_factory=dict)

    def start(self) -> None:
        """Start everything, servers first."""
        self.postgres = Pair(self.folder)
        self.postgres.start()
        broker_folder = self.folder / "broker"
        broker_folder.mkdir()
        self.broker: Broker = MAKERS[self.broker_name](broker_folder)
        self.broker.start()
        self.to_databases = {server: Proxy(server.port) for server in self.postgres.servers}
        self.to_broker = Proxy(self.broker.port)
        ports = [server.port for server in self.postgres.servers]
        self.engine: Engine = create_engine(self._database(ports), poolclass=NullPool)
        with self.engine.begin() as connection:
            migrations.upgrade(connection)
        ids = range(1, USERS + 1)
        given(
            self.engine,
            user=[{"id": of, "quota": WEALTH} for of in ids],
            token=[{"id": of, "user_id": of, "remain_quota": WEALTH} for of in ids],
        )
        self._members()
        for member in self.members.values():
            member.start()

    def _database(self, ports: list[int]) -> str:
        """Both servers in one URL: libpq takes the one that accepts writes."""
        hosts = "&".join(f"host=127.0.0.1:{port}" for port in ports)
        return f"postgresql+psycopg://postgres@/postgres?{hosts}&target_session_attrs=read-write&connect_timeout=3"

    def _members(self) -> None:
        waits = f"&statement_timeout={STATEMENT_TIMEOUT_S}&call_timeout={CALL_TIMEOUT_S}"
        database_url = self._database([proxy.port for proxy in self.to_databases.values()]) + waits
        broker_url = self.broker.url.replace(f":{self.broker.port}", f":{self.to_broker.port}")
        celery = (sys.executable, "-m", "celery", "-A", self.worker_app)
        relay = (sys.executable, "-m", self.relay_module, database_url, broker_url)
        commands: dict[str, tuple[str, ...]] = {"beat": (*celery, "beat")}
        for number in range(WORKERS):
            options = ("-Q", "billing", "-c", "2", "-n", f"worker{number}@%h", "-l", "INFO")
            commands[f"worker{number}"] = (*celery, "worker", *options)
        for number in range(RELAYS):
            diary, seed = str(self.folder / f"relay{number}.diary"), f"{self.seed}-{number}-{{start}}"
            commands[f"relay{number}"] = (*relay, diary, self.durability.value, seed)
        settings = {"durability": self.durability.value, **SETTINGS}
        for name, command in commands.items():
            env = environment(database_url, broker_url, self.folder / name, **settings)
            self.members[name] = Member(name, command, env, self.folder / f"{name}.log")

    @property
    def links(self) -> tuple[Proxy, Proxy]:
        """What everybody talks through now: to the primary, and to the broker."""
        return self.to_databases[self.postgres.primary], self.to_broker

    @property
    def diaries(self) -> list[Path]:
        """What the relays wrote down."""
        return sorted(self.folder.glob("*.diary"))

    def named(self, prefix: str) -> list[Member]:
        """Workers, or relays."""
        return [member for name, member in sorted(self.members.items()) if name.startswith(prefix)]

    def go_on(self, timeout_s: float) -> None:
        """Wait until relays and workers have done some work that was begun after now: held, promised, applied."""
        before = set(read(self.diaries))

        def at_work() -> bool:
            promised = {of for of, each in read(self.diaries).items() if each.settled is not None}
            return len((promised - before) & in_state(self.engine, "settled")) >= SETTLES

        until(at_work, timeout_s, f"{SETTLES} settles more, promised and applied")

    def supervise(self) -> list[str]:
        """Start what has ended by itself; return its names."""
        ended = [member for member in self.members.values() if member.ended]
        for member in ended:
            member.start()
        return [member.name for member in ended]

    def stop(self) -> None:
        """End everything."""
        for member in self.members.values():
            if member.process is not None:
                member.send(signal.SIGCONT)
                member.kill()
        for proxy in (*self.to_databases.values(), self.to_broker):
            proxy.close()
        self.engine.dispose()
        self.broker.stop()
        self.postgres.stop()
