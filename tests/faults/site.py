"""Everything that can break: servers, proxies, workers, beat, doors and relays, all the harness's own."""

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, make_url

from relay_billing import migrations
from relay_billing.domain.choices import Durability
from relay_billing.store.drivers import engine_of
from relay_billing.store.waits import Waits
from tests.faults.databases import DATABASES
from tests.faults.members import Member
from tests.faults.pair import Pair
from tests.faults.proxy import Proxy
from tests.faults.relay import USERS
from tests.faults.relays import MIXES, Way, over_http
from tests.faults.verdict import in_state, read
from tests.fixtures.accounts import given
from tests.fixtures.brokers import MAKERS, Broker, free_port
from tests.fixtures.waiting import until
from tests.fixtures.workers import environment

WEALTH = 10**12
SETTINGS = {"sweep_interval": 1, "intent_grace": 3, "visibility_timeout": 15, "unknown_session_retries": 1}
STATEMENT_TIMEOUT_S, CALL_TIMEOUT_S = 3, 5
"""Of every client of the database: short, so that a fault may outlast them."""
PATIENT = Waits(statement_s=60.0, call_s=120.0)
"""Of the harness itself, which goes past the proxies: it waits for whoever was stopped with a lock."""
WORKERS, DOORS = 2, 2
SETTLES = 100
"""Settles by which it is seen that all are at work."""


@dataclass(eq=False)
class Site:
    """All of it. `worker_app`: what `celery -A` is given; a mutation puts its own there, or a module of its own.

    There are doors where a relay calls one.
    """

    folder: Path
    broker_name: str
    seed: int
    worker_app: str = "worker"
    relay_module: str = "tests.faults.relay"
    durability: Durability = Durability.DATABASE
    relays: tuple[Way, ...] = MIXES["in-process"]
    door_module: str = "api"
    database_name: str = "postgresql"
    members: dict[str, Member] = field(default_factory=dict)

    def start(self) -> None:
        """Start everything, servers first."""
        self.database: Pair[Any] = DATABASES[self.database_name](self.folder)
        self.database.start()
        broker_folder = self.folder / "broker"
        broker_folder.mkdir()
        self.broker: Broker = MAKERS[self.broker_name](broker_folder)
        self.broker.start()
        self.to_databases = {port: Proxy(port) for port in self.database.ports}
        self.to_broker = Proxy(self.broker.port)
        self.door_ports = [free_port() for _ in range(DOORS if set(self.relays) - {Way.IN_PROCESS} else 0)]
        self.to_doors = [Proxy(self.door_ports[0], tuple(self.door_ports[1:]))] if self.door_ports else []
        self.engine: Engine = engine_of(self.database.url(self.database.ports), PATIENT, keep=False)
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

    def _members(self) -> None:
        waits = {"statement_timeout": str(STATEMENT_TIMEOUT_S), "call_timeout": str(CALL_TIMEOUT_S)}
        through = make_url(self.database.url([proxy.port for proxy in self.to_databases.values()]))
        database_url = through.update_query_dict(waits).render_as_string()
        broker_url = self.broker.url.replace(f":{self.broker.port}", f":{self.to_broker.port}")
        celery = (sys.executable, "-m", "celery", "-A", self.worker_app)
        commands: dict[str, tuple[str, ...]] = {"beat": (*celery, "beat")}
        for number in range(WORKERS):
            options = ("-Q", "billing", "-c", "2", "-n", f"worker{number}@%h", "-l", "INFO")
            commands[f"worker{number}"] = (*celery, "worker", *options)
        for number in range(len(self.door_ports)):
            commands[f"door{number}"] = (sys.executable, "-m", self.door_module)
        for number, way in enumerate(self.relays):
            commands[f"relay{number}"] = self._relay(number, way, database_url, broker_url)
        settings = {"durability": self.durability.value, "trust_quota": 0, **SETTINGS}
        for name, command in commands.items():
            env = environment(database_url, broker_url, self.folder / name, **settings)
            self.members[name] = Member(name, command, env, self.folder / f"{name}.log")
        for port, door in zip(self.door_ports, self.named("door"), strict=True):
            door.env = {**door.env, "BILLING_API_PORT": str(port)}

    def _relay(self, number: int, way: Way, database_url: str, broker_url: str) -> tuple[str, ...]:
        diary, seed = str(self.folder / f"relay{number}.diary"), f"{self.seed}-{number}-{{start}}"
        if way is Way.IN_PROCESS:
            relay = (sys.executable, "-m", self.relay_module, database_url, broker_url)
            return (*relay, diary, self.durability.value, seed)
        (to_doors,) = self.to_doors
        return (*over_http(way, self.folder), f"http://127.0.0.1:{to_doors.port}", diary, seed)

    @property
    def links(self) -> tuple[Proxy, ...]:
        """What everybody talks through now: to the primary, to the broker, and to the doors where there are some."""
        return self.to_databases[self.database.port], self.to_broker, *self.to_doors

    @property
    def diaries(self) -> list[Path]:
        """What the relays wrote down."""
        return sorted(self.folder.glob("*.diary"))

    def named(self, prefix: str) -> list[Member]:
        """Workers, doors or relays."""
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
        for proxy in (*self.to_databases.values(), self.to_broker, *self.to_doors):
            proxy.close()
        self.engine.dispose()
        self.broker.stop()
        self.database.stop()
