"""Finds a worker that is connected and gets no messages, and has it connect anew.

RabbitMQ informs a consumer whose queue is deleted, and Celery then connects anew. Neither is certain: the message that
informs may be lost, RabbitMQ's own channel may crash over it (seen with 3.10.8), and a queue that is declared again
within a tenth of a second keeps its old consumers and gives them nothing. On Redis the answer to a worker's request for
a message may be lost. The worker then reports that it consumes, and waits for ever.
"""

import threading
import time
from dataclasses import dataclass
from enum import StrEnum

import structlog

from config.settings import Settings
from tasks import metrics
from worker.monitoring import queues
from worker.monitoring.queues import BrokerAway, QueueState
from worker.patches.consumer import LedgerConsumer
from worker.process.stage import Stage
from worker.process.state import OwnState

log = structlog.get_logger("worker")

LOOK_EVERY_S = 3.0
"""Seconds between two looks at the queues; a fault has to be seen twice. One takes RabbitMQ under a millisecond."""
SILENT_SWEEPS = 20
"""Sweeps in whose time an idle worker gets a message. Workers take turns: up to so many idle ones each get a sweep."""


class Loss(StrEnum):
    """By what a worker finds that it gets no messages; the label `reason` of `billing_lost_consumers_total`."""

    NO_CONSUMER = "no_consumer"
    """RabbitMQ has no consumer for the queue, or has no queue."""
    STARVED = "starved"
    """Messages wait, this worker has none in hand, and gets none."""
    SILENT = "silent"
    """No message came in `SILENT_SWEEPS`, not even a sweep."""


for _loss in Loss:
    metrics.LOST_CONSUMERS.labels(_loss.value)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has found."""

    connection: int
    """The number of the worker's connection since its start."""
    received: int
    """Messages that it has received since its start."""
    idle: bool
    """Whether it has no message in hand."""
    queues: tuple[QueueState, ...]
    """Those that it consumes from."""

    def loss_since(self, before: "Look") -> tuple[Loss, str] | None:
        """What is wrong in both looks, with the queue's name; None: nothing, or the worker has connected meanwhile."""
        if before.connection != self.connection:
            return None
        gets_none = before.idle and self.idle and before.received == self.received
        then = {each.name: each for each in before.queues}
        for now in self.queues:
            once = then.get(now.name)
            if once is None:
                continue
            if once.consumers == 0 and now.consumers == 0:
                return Loss.NO_CONSUMER, now.name
            if gets_none and once.messages and now.messages:
                return Loss.STARVED, now.name
        return None


class ConsumerWatch:
    """Looks at a worker's queues from a thread: a broker that does not answer must not stop the worker's loop."""

    def __init__(self, settings: Settings, consumer: LedgerConsumer, own: OwnState) -> None:
        self._broker_url, self._consumer, self._own = settings.broker_url, consumer, own
        self._silence_s = SILENT_SWEEPS * settings.sweep_interval
        self._last: Look | None = None
        self._busy_at = time.monotonic()

    def start(self) -> None:
        """Look every `LOOK_EVERY_S` as long as this process lives; not on the filesystem broker, which has no loop."""
        if self._consumer.hub is not None:
            threading.Thread(target=self._watch, name="consumer watch", daemon=True).start()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_EVERY_S):
            try:
                # Kept open: RabbitMQ logs every connection.
                with queues.asking(self._broker_url) as ask:
                    self._look(ask())
                    while not pause.wait(LOOK_EVERY_S):
                        self._look(ask())
            except BrokerAway:
                # The worker's own connection finds that, and waits. A fault has to be seen twice without a gap.
                self._last = None
            except Exception:
                # The thread must survive any error, or nobody would look any more.
                log.exception("the queues can't be looked at")
                self._last = None

    def _look(self, found: tuple[QueueState, ...]) -> None:
        if self._own.stage is not Stage.CONSUMING:
            self._last = None
            return
        consumer = self._consumer
        mine = tuple(each for each in found if each.name in consumer.queue_names)
        loss = self.loss(Look(consumer.restart_count, consumer.received, consumer.idle, mine), time.monotonic())
        if loss is not None:
            reason, queue = loss
            log.warning("this worker gets no messages, it connects anew", reason=reason.value, queue=queue)
            metrics.LOST_CONSUMERS.labels(reason.value).inc()
            consumer.renew(f"{reason.value}: {queue}", lambda: self._own.say(Stage.CONNECTING))

    def loss(self, now: Look, at: float) -> tuple[Loss, str] | None:
        """What this look, at `at` (monotonic seconds), has found to be wrong; the next one then begins afresh."""
        before, self._last = self._last, now
        if before is None or before.connection != now.connection or before.received != now.received or not now.idle:
            self._busy_at = at
        found = None if before is None else now.loss_since(before)
        if found is None and at - self._busy_at > self._silence_s:
            found = Loss.SILENT, ", ".join(each.name for each in now.queues)
        if found is not None:
            self._last = None
        return found
