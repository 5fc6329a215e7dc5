"""Keeps as dead letters what Celery would drop: messages undecodable, of no known task, or of one that can't begin.

The worker's event loop finds them, and must not wait for the database: a separate thread keeps them.
"""

import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from kombu import Message

from config.settings import load
from relay_billing.domain.dead_letters import Letter, LetterReason
from relay_billing.domain.errors import BillingError
from relay_billing.flows import dead_letters
from relay_billing.ledger import Ledger
from relay_billing.store.drivers import engine_of
from tasks import metrics
from tasks.base import WAITS

log = structlog.get_logger("tasks")

PAUSE_S = 1.0
"""Seconds to wait before a message that could not be kept is given back: it is redelivered immediately."""
MAX_WAITING = 1_000
"""Messages that may wait to be kept; further ones are given back immediately. A worker's prefetch is far below it."""
FORK_WAIT_S = 0.5
"""Seconds that a fork waits until the thread's connection is closed. A child that inherits one only keeps it open."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a message ends. The thread calls these; both must hand over to the event loop, which owns the channel."""

    acknowledge: Callable[[], object]
    give_back: Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Found:
    """A message that waits to be kept."""

    letter: Letter
    task: str
    detail: str
    ending: Ending


class Undeliverable:
    """Keeps messages one by one in a thread, which starts with the first message."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[_Found] = queue.Queue(MAX_WAITING)
        self._starting, self._keeping = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._held_back = False

    def keep(self, task: str, message: Message, detail: str, ending: Ending) -> None:
        """Keep a message as a dead letter, then acknowledge it; if the database is away, give it back. Never waits."""
        body = {"headers": dict(message.headers or {}), "body": _text(message.body)}
        letter = Letter.of_message(task, body, detail)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="undeliverable", daemon=True)
                self._thread.start()
                release = self._release
                os.register_at_fork(before=self._before_fork, after_in_parent=release, after_in_child=release)
        try:
            self._waiting.put_nowait(_Found(letter, task, detail, ending))
        except queue.Full:
            log.error("too many messages wait to be kept, this one goes back", task=task, detail=detail)
            ending.give_back()

    def _before_fork(self) -> None:
        """Before a fork: wait until no connection is open, for at most `FORK_WAIT_S`."""
        self._held_back = self._keeping.acquire(timeout=FORK_WAIT_S)

    def _release(self) -> None:
        if self._held_back:
            self._keeping.release()

    def _work(self) -> None:
        pause = threading.Event()
        while True:
            found = self._waiting.get()
            try:
                with self._keeping:
                    _keep(found.letter)
            except BillingError as error:
                log.error(
                    "a message can't be kept, it goes back", task=found.task, detail=found.detail, error=str(error)
                )
                pause.wait(PAUSE_S)
                found.ending.give_back()
                continue
            except Exception:
                # The thread must survive any error, or the messages behind this one would never be dealt with.
                log.exception("a message can't be kept, it goes back", task=found.task, detail=found.detail)
                pause.wait(PAUSE_S)
                found.ending.give_back()
                continue
            metrics.DEAD_LETTERS.labels(LetterReason.INVALID_MESSAGE.value).inc()
            log.error("dead letter", task=found.task, reason=LetterReason.INVALID_MESSAGE.value, detail=found.detail)
            found.ending.acknowledge()


def _keep(letter: Letter) -> None:
    """Keep a letter over a connection of its own: the worker's main process may fork at any time, so it pools none."""
    settings = load()
    engine = engine_of(settings.database_url, WAITS, keep=False)
    try:
        Ledger(engine, settings.policy).run(dead_letters.keep, [letter])
    finally:
        engine.dispose()


def _text(body: object) -> str:
    return body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else str(body)


UNDELIVERABLE = Undeliverable()
"""The worker's one instance; its thread runs in the main process."""
