"""Posts jobs through Celery, in bounded time. A job that can't be posted is not lost: the sweep applies its intent."""

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from relay_billing.broker.importing import importing
from relay_billing.broker.options import AMQP, bounded_options
from relay_billing.domain.jobs import QUEUE, Job, task_of
from relay_billing.domain.messages import summary

if TYPE_CHECKING:
    # Imported where it is used: it takes a fifth of this package's import time.
    from celery import Celery

log = logging.getLogger("relay_billing")

POSTED_AT = "posted_at"
"""Message header: when the message was posted, in Unix milliseconds."""
MAX_WAITING = 10_000
"""Most messages that may wait for a slow broker; beyond that, the sweep applies the intents."""
CLOSE_TIMEOUT_S = 5.0
RETRIES = {"max_retries": 2, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}


class Receipt:
    """Tells whether the broker has taken the jobs."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self._done = threading.Event()
        self._posted = False

    def finish(self, posted: bool) -> None:
        """Record whether the jobs were posted; called once."""
        self._posted = posted
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the broker has confirmed; False: it refused, or has not answered in time."""
        return self._done.wait(timeout_s) and self._posted


def _forget_in_child(parent: "weakref.ref[Publisher]") -> None:
    publisher = parent()
    if publisher is not None:
        publisher._forget()


class Publisher:
    """Posts jobs in one background thread, which starts with the first job, and again after a fork.

    Callers wait for the broker only if they ask to (`Receipt.wait`).
    """

    def __init__(self, broker_url: str, timeout_s: int, failed: Callable[[Sequence[Job]], None] | None = None) -> None:
        """`failed` is called with jobs that the broker did not take; unset: nothing is called."""
        self._failed = failed
        self._options = bounded_options(broker_url, timeout_s)
        self._forget()
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget_in_child(myself))
        atexit.register(self.close)

    def _forget(self) -> None:
        """Begin without a thread or a connection: after a fork, the old ones belong to the parent."""
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Receipt | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False

    def post(self, jobs: Sequence[Job]) -> Receipt:
        """Queue 1 to 500 jobs for posting. Never blocks, and never raises an error of the broker."""
        receipt = Receipt(jobs)
        with self._lock:
            if self._closed:
                receipt.finish(False)
                return receipt
            if self._thread is None:
                name = "relay-billing-publisher"
                self._thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(receipt)
        except queue.Full:
            log.warning("%d jobs wait for the broker already: these are left to their intents", MAX_WAITING)
            self._tell(jobs)
            receipt.finish(False)
        return receipt

    @property
    def waiting(self) -> int:
        """Messages that wait for the broker."""
        return self._waiting.qsize()

    def _tell(self, jobs: Sequence[Job]) -> None:
        if self._failed is not None:
            self._failed(jobs)

    def close(self) -> None:
        """Post the waiting messages, for at most twice `CLOSE_TIMEOUT_S`, and end the thread."""
        with self._lock:
            thread, self._thread, self._closed = self._thread, None, True
        atexit.unregister(self.close)
        if thread is not None:
            try:
                self._waiting.put(None, timeout=CLOSE_TIMEOUT_S)
            except queue.Full:
                log.warning("closed with %d messages unposted: their intents stand", self._waiting.qsize())
                return
            thread.join(CLOSE_TIMEOUT_S)

    def _app(self) -> "Celery":
        """The Celery app. Importing Celery takes 0.1 s, so only the publisher's thread calls this."""
        with importing:
            from celery import Celery

            # Not the current app: a relay that uses Celery itself keeps its own.
            app = Celery("relay_billing", set_as_current=False, amqp=AMQP)
            app.conf.update(self._options)
            # Imports all that posting needs now, while forks wait.
            app.amqp.Producer(app.connection_for_write(), auto_declare=False).release()
            _ = app.amqp.send_task_message, app.backend, app.AsyncResult
        return app

    def _work(self) -> None:
        # Local to the thread: a forked child that released the app would close the parent's connections.
        waiting, app = self._waiting, None
        while (receipt := waiting.get()) is not None:
            try:
                app = app or self._app()
                self._send(app, receipt.jobs)
            except Exception as error:  # noqa: BLE001, whatever a driver raises (a nack is no KombuError), the thread goes on
                log.warning("the broker did not take %d jobs, their intents stand: %s", len(receipt.jobs), error)
                self._tell(receipt.jobs)
                receipt.finish(False)
            else:
                receipt.finish(True)
        if app is not None:
            app.close()

    def _send(self, app: "Celery", jobs: Sequence[Job]) -> None:
        messages: dict[str, list[Job]] = {}
        for job in jobs:
            messages.setdefault(task_of(job), []).append(job)
        for task, group in messages.items():
            wired = [job.wire() for job in group]
            app.send_task(
                task,
                kwargs={"jobs": wired},
                queue=QUEUE,
                headers={POSTED_AT: time.time_ns() // 1_000_000},
                retry=True,
                retry_policy=RETRIES,
                # Monitors show this: ids and amounts are enough to find a job.
                kwargsrepr=summary(wired),
            )
