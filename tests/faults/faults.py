"""Every fault that the chaos knows. None of them mends anything but what it took down itself."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import redis
from amqp.exceptions import MessageNacked
from kombu.exceptions import OperationalError

from api.draining import DRAIN_S, FINISH_S
from relay_billing import Ledger, Policy
from relay_billing.domain.choices import Durability
from tests.faults.pair import Server
from tests.faults.queue import delete_exchanges, delete_queues, made
from tests.faults.site import CALL_TIMEOUT_S, Site
from tests.faults.verdict import read
from tests.fixtures.waiting import until
from tests.fixtures.wire import Foreign

STOPPED_S = 17.0
"""Longer than the visibility time-out of the harness."""
DELAYED_S, HALF_OPEN_S = 2, 3
"""How long these two faults last."""
BLACK_S = CALL_TIMEOUT_S + 3
"""Longer than a client waits for the database, with all its attempts."""
QUEUE_MADE_TIMEOUT_S = 45.0
"""How long running workers may take to notice that their queue is gone, and to make it anew."""
DOOR_ENDS_S = DRAIN_S + FINISH_S + 10
"""How long a door may take to end in order."""
JOBS_AGAIN = 50
STOPPABLE = ("worker", "relay", "door")

Fault = Callable[[], None]


class Faults:
    """What can be done to a site. `done` counts what came of it."""

    def __init__(self, site: Site, chance: random.Random, log: Callable[[str], None]) -> None:
        self.site, self.chance, self.log = site, chance, log
        self.done: Counter[str] = Counter()
        self._stopped: dict[str, float] = {}

    @property
    def forgetting(self) -> list[Fault]:
        """Those that lose the broker's memory; none with `durability=broker`: there the promise is in that memory."""
        if self.site.durability is Durability.BROKER:
            return []
        if self.site.broker_name == "redis":
            return [self.flush, self.empty_broker]
        return [self.delete_queue, self.delete_exchange, self.empty_broker]

    @property
    def weighed(self) -> list[tuple[int, Fault]]:
        """All, each with its weight."""
        usual: list[tuple[int, Fault]] = [
            (6, self.kill_worker),
            (4, self.kill_relay),
            (2, self.stop),
            (2, self.sweep_ahead),
            (2, self.restart_broker),
            (2, self.kill_broker),
            (2, self.restart_database),
            (2, self.restart_database_immediately),
            (2, self.failover),
            (1, self.demote),
            (3, self.cut),
            (2, self.delay),
            (2, self.half_open),
            (2, self.black),
            (5, self.duplicate),
        ]
        doors = [(5, self.kill_door), (2, self.restart_door)] if self.site.named("door") else []
        return [*usual, *doors, *((1, fault) for fault in self.forgetting)]

    def make(self, fault: Fault) -> None:
        """Let it happen, and count it."""
        fault()
        self.done[fault.__name__.replace("_", " ")] += 1

    def kill_worker(self) -> None:
        """SIGKILL, children too."""
        self._kill("worker")

    def kill_relay(self) -> None:
        """SIGKILL."""
        self._kill("relay")

    def kill_door(self) -> None:
        """SIGKILL."""
        self._kill("door")

    def restart_door(self) -> None:
        """In order: it answers what it has in hand."""
        member = self.chance.choice(self.site.named("door"))
        self._stopped.pop(member.name, None)
        member.send(signal.SIGCONT)
        member.end(DOOR_ENDS_S)
        member.start()

    def _kill(self, kind: str) -> None:
        member = self.chance.choice(self.site.named(kind))
        self._stopped.pop(member.name, None)
        member.kill()
        member.start()

    def stop(self) -> None:
        """SIGSTOP, past the visibility time-out."""
        member = self.chance.choice([each for kind in STOPPABLE for each in self.site.named(kind)])
        member.send(signal.SIGSTOP)
        self._stopped[member.name] = time.monotonic() + STOPPED_S

    def wake(self, *, everybody: bool = False) -> None:
        """SIGCONT to who was stopped for long enough."""
        for name, at in list(self._stopped.items()):
            if everybody or time.monotonic() > at:
                del self._stopped[name]
                self.site.members[name].send(signal.SIGCONT)

    def sweep_ahead(self) -> None:
        """A sweep whose clock is ahead: what is open expires under its relay, whose settle will be late."""
        # Who was stopped in a transaction holds locks that this waits for, and nobody else here would wake them.
        self.wake(everybody=True)
        ahead = Ledger(self.site.engine, Policy(trust_quota=0), lambda: datetime.now(UTC) + timedelta(hours=1))
        ahead.apply_intents()
        self.done["holds expired early"] += ahead.expire_holds()

    def restart_broker(self) -> None:
        """In order."""
        self._let_the_queue_be_made()
        self.site.broker.stop()
        self.site.broker.start()

    def kill_broker(self) -> None:
        """SIGKILL."""
        self._let_the_queue_be_made()
        self._end_broker()
        self.site.broker.start()

    def _let_the_queue_be_made(self) -> None:
        # RabbitMQ 3.10, killed while a quorum queue is made, has one that nobody can use (docs/runbook.md).
        until(lambda: made(self.site.broker), QUEUE_MADE_TIMEOUT_S, "the queue made anew by those that need it")

    def _end_broker(self) -> None:
        process = self.site.broker.process
        assert process is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def empty_broker(self) -> None:
        """SIGKILL, and it comes back with an empty disk."""
        self._end_broker()
        for each in ("data", "appendonlydir"):
            shutil.rmtree(self.site.broker.folder / each, ignore_errors=True)
        self.site.broker.start()

    def flush(self) -> None:
        """Redis forgets everything, and no connection ends."""
        with redis.Redis(port=self.site.broker.port) as connection:
            connection.flushall()

    def delete_queue(self) -> None:
        """RabbitMQ loses the queues, under workers that consume from them."""
        self._let_the_queue_be_made()
        delete_queues(self.site.broker)

    def delete_exchange(self) -> None:
        """RabbitMQ loses the exchanges, under relays that post to them."""
        self._let_the_queue_be_made()
        delete_exchanges(self.site.broker)

    def restart_database(self) -> None:
        """All sessions are ended."""
        self.site.database.primary.stop("fast")
        self.site.database.primary.start()

    def restart_database_immediately(self) -> None:
        """Recovery comes with the start."""
        self.site.database.primary.stop("immediate")
        self.site.database.primary.start()

    def failover(self) -> None:
        """The primary dies, and the standby takes its place."""
        deaths: list[Callable[[Server], None]] = [lambda server: server.kill(), lambda server: server.stop("immediate")]
        self.site.database.failover(self.chance.choice(deaths))

    def demote(self) -> None:
        """Primary and standby change places; open sessions are refused writes before they end."""
        self.site.database.demote()

    def cut(self) -> None:
        """Every connection through one proxy is closed."""
        self.chance.choice(self.site.links).cut()

    def delay(self) -> None:
        """Every packet takes its time, for a while."""
        proxy = self.chance.choice(self.site.links)
        proxy.delay_s = 0.2
        time.sleep(DELAYED_S)
        proxy.delay_s = 0

    def half_open(self) -> None:
        """What is sent goes nowhere, then the connections end."""
        proxy = self.chance.choice(self.site.links)
        proxy.half_open = True
        time.sleep(HALF_OPEN_S)
        proxy.half_open = False
        proxy.cut()

    def black(self) -> None:
        """Nothing passes, and no connection ends. Then what was sent arrives after all, or the connections end."""
        proxy = self.chance.choice(self.site.links)
        proxy.black = True
        time.sleep(BLACK_S)
        if self.chance.random() < 0.5:
            proxy.cut()
        proxy.black = False

    def duplicate(self) -> None:
        """Jobs of the past come again, in another order."""
        told = read(self.site.diaries)
        settled = [(of, each.settled) for of, each in told.items() if each.settled is not None]
        chosen = self.chance.sample(settled, min(JOBS_AGAIN, len(settled)))
        jobs = [{"request_id": of, "actual_quota": actual} for of, actual in chosen]
        if not jobs:
            return
        try:
            # What is gone stays gone: to make it anew is the part of relays and workers.
            Foreign("billing.settle", {"jobs": jobs}).post(self.site.broker, declared=False)
        except (OperationalError, MessageNacked, OSError) as error:
            self.log(f"not posted: {error}")
            return
        self.done["jobs posted again"] += len(jobs)
