"""Everything that can break: servers, proxies, workers, beat and relays, all the harness's own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.pool import NullPool

from relay_billing import migrations
from relay_billing.domain.policy import Durability
from tests.faults.postgres import Postgres
from tests.faults.proxy import Proxy
from tests.faults.relay import USERS
from tests.fixtures.books import given
from tests.fixtures.brokers import MAKERS, Broker
from tests.fixtures.workers import ROOT, environment

WEALTH = 10**12
DURABILITY = {"redis": Durability.DATABASE, "rabbitmq": Durability.BROKER}
"""A Redis that is wiped loses its jobs: there the intent has to be their safety."""
SETTINGS = {"sweep_interval": 1, "intent_grace": 3, "visibility_timeout": 15, "unknown_session_retries": 1}
WORKERS, RELAYS = 2, 2


@dataclass(eq=False)
class Member:
    """One process, started again whenever it ends."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def start(self) -> None:
        """Start it, or start it again. The database knows it by its name."""
        self.starts += 1
        command = tuple(part.replace("{start}", str(self.starts)) for part in self.command)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**self.env, "PGAPPNAME": self.name},
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Signal it and all its children."""
        assert self.process is not None
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            # It has ended by itself; the supervisor will see it.
            return

    def kill(self) -> None:
        """SIGKILL, children too."""
        assert self.process is not None
        self.send(signal.SIGKILL)
        self.process.wait()

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.process is not None and self.process.poll() is not None


@dataclass(eq=False)
class Site:
    """All of it. `worker_app`: what `celery -A` is given; a mutation puts its own there."""

    folder: Path
    broker_name: str
    seed: int
    worker_app: str = "worker"
    relay_module: str = "tests.faults.relay"
    members: dict[str, Member] = field(default_factory=dict)

    def start(self) -> None:
        """Start everything, servers first."""
        self.postgres = Postgres(self.folder)
        self.postgres.start()
        broker_folder = self.folder / "broker"
        broker_folder.mkdir()
        self.broker: Broker = MAKERS[self.broker_name](broker_folder)
        self.broker.start()
        self.to_database, self.to_broker = Proxy(self.postgres.port), Proxy(self.broker.port)
        self.proxies = (self.to_database, self.to_broker)
        self.engine: Engine = create_engine(self._database(self.postgres.port), poolclass=NullPool)
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

    def _database(self, port: int) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres?connect_timeout=3"

    def _members(self) -> None:
        durability = DURABILITY[self.broker_name]
        database_url = self._database(self.to_database.port)
        broker_url = self.broker.url.replace(f":{self.broker.port}", f":{self.to_broker.port}")
        celery = (sys.executable, "-m", "celery", "-A")
        for number in range(WORKERS):
            name = f"worker{number}"
            env = environment(database_url, broker_url, self.folder / name, durability=durability.value, **SETTINGS)
            command = (*celery, self.worker_app, "worker", "-Q", "billing", "-c", "2", "-n", f"{name}@%h", "-l", "INFO")
            self.members[name] = Member(name, command, env, self.folder / f"{name}.log")
        env = environment(database_url, broker_url, self.folder / "beat", durability=durability.value, **SETTINGS)
        self.members["beat"] = Member("beat", (*celery, self.worker_app, "beat"), env, self.folder / "beat.log")
        for number in range(RELAYS):
            name = f"relay{number}"
            diary = str(self.folder / f"{name}.diary")
            url = make_url(database_url).render_as_string(hide_password=False)
            seed = f"{self.seed}-{number}-{{start}}"
            relay = (sys.executable, "-m", self.relay_module, url, broker_url, diary, durability.value, seed)
            self.members[name] = Member(name, relay, env, self.folder / f"{name}.log")

    def named(self, prefix: str) -> list[Member]:
        """Workers, or relays."""
        return [member for name, member in sorted(self.members.items()) if name.startswith(prefix)]

    def supervise(self) -> int:
        """Start what has ended by itself; return how many had."""
        ended = [member for member in self.members.values() if member.ended]
        for member in ended:
            member.start()
        return len(ended)

    def stop(self) -> None:
        """End everything."""
        for member in self.members.values():
            if member.process is not None:
                member.send(signal.SIGCONT)
                member.kill()
        for proxy in self.proxies:
            proxy.close()
        self.engine.dispose()
        self.broker.stop()
        self.postgres.stop("immediate")
