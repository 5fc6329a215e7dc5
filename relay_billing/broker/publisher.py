"""Posts jobs to Celery, bounded in time. A job that can't be posted is in no danger: its intent is on its session."""

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
    # Imported where it is used: it is a fifth of what importing this package takes.
    from celery import Celery

log = logging.getLogger("relay_billing")

POSTED_AT = "posted_at"
"""Message header: when the message was posted, in Unix milliseconds."""
MAX_WAITING = 10_000
"""Messages that may wait for a slow broker; more are left to their intents."""
CLOSE_TIMEOUT_S = 5.0
RETRIES = {"max_retries": 2, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}


class Receipt:
    """Tells whether the broker has taken the jobs."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self._done = threading.Event()
        self._posted = False

    def finish(self, posted: bool) -> None:
        """Say what became of it; called once."""
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
    """One background thread that posts what callers hand in; made lazily, made anew after a fork.

    Callers never wait for a broker unless they ask to (`Receipt.wait`).
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
        """Begin without a thread or a connection: those of a parent process are the parent's."""
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Receipt | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False

    def post(self, jobs: Sequence[Job]) -> Receipt:
        """Hand in 1 to 500 jobs. Never raises for a broker's sake and never blocks."""
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
        """Post what waits, for at most a few seconds, and end the thread."""
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
        """Imports Celery, and so takes a tenth of a second: on the publisher's own thread."""
        with importing:
            from celery import Celery

            # Not the current app: a relay that uses Celery itself keeps its own.
            app = Celery("relay_billing", set_as_current=False, amqp=AMQP)
            app.conf.update(self._options)
            # What posting imports.
            app.amqp.Producer(app.connection_for_write(), auto_declare=False).release()
            _ = app.amqp.send_task_message, app.backend, app.AsyncResult
        return app

    def _work(self) -> None:
        # The thread's own: a child of a fork that let it go would close the parent's connections.
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
                # What monitors may show of it: ids and amounts are enough to find a job.
                kwargsrepr=summary(wired),
            )
