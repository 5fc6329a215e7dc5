"""Posts jobs to Celery, bounded in time. A job that can't be posted is in no danger: its intent is on its session."""

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.jobs import QUEUE, WEBHOOKS_QUEUE, Job, summary, task_of
from relay_billing.tls import broker_tls

if TYPE_CHECKING:
    # Imported where they are used: they are a fifth of what importing this package takes.
    from celery import Celery
    from kombu import Queue

log = logging.getLogger("relay_billing")

SCHEMES = ("redis", "rediss", "amqp", "amqps", "filesystem")
DEFAULT_FOLDER = "var/broker"
DEAD_QUEUE = f"{QUEUE}.dead"
POSTED_AT = "posted_at"
"""Message header: when the message was posted, in Unix milliseconds."""
DELIVERY_LIMIT = 20
"""Deliveries of one message by RabbitMQ; above what the worker counts, so that poison is found there first."""
MAX_WAITING = 10_000
"""Messages that may wait for a slow broker; more are left to their intents."""
CLOSE_TIMEOUT_S = 5.0
RETRIES = {"max_retries": 2, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}


def _queue(name: str, exchange_type: str, arguments: dict[str, object] | None) -> "Queue":
    """A durable queue and an exchange of the same name."""
    from kombu import Exchange, Queue

    return Queue(name, Exchange(name, type=exchange_type), routing_key=name, durable=True, queue_arguments=arguments)


def billing_queue(scheme: str) -> "Queue":
    """The queue `billing`, durable; on RabbitMQ a quorum queue, whose delayed jobs need a topic exchange."""
    arguments: dict[str, object] | None = None
    if scheme.startswith("amqp"):
        arguments = {
            "x-queue-type": "quorum",
            # What kills every worker that takes it comes to an end; the sweep deals with the dead queue.
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": DEAD_QUEUE,
            # A dead message waits here until the dead queue has confirmed it.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    return _queue(QUEUE, "topic", arguments)


def webhooks_queue(scheme: str) -> "Queue":
    """The queue `billing.webhooks`: beat asks here for deliveries; a message that is lost is asked for again."""
    quorum: dict[str, object] = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    return _queue(WEBHOOKS_QUEUE, "topic", quorum if scheme.startswith("amqp") else None)


def dead_queue() -> "Queue":
    """RabbitMQ's queue of messages that were rejected, or given out too often."""
    return _queue(DEAD_QUEUE, "fanout", {"x-queue-type": "quorum"})


def broker_options(broker_url: str) -> dict[str, object]:
    """Celery's settings for a broker, the same for relay and worker: queue, exchange, folder, JSON only.

    `redis://`, `rediss://`, `amqp://`, `amqps://`, or `filesystem://FOLDER` (unset: `var/broker`); `rediss://` and
    `amqps://` with the parameters of `tls.broker_tls`. Raises InvalidRequest for another scheme or a wrong parameter.
    """
    try:
        scheme = urlsplit(broker_url).scheme
    except ValueError as error:
        raise InvalidRequest("broker_url", "is not a URL, as redis://host:6379/0") from error
    if scheme not in SCHEMES:
        raise InvalidRequest("broker_url", f"must begin with one of {', '.join(each + '://' for each in SCHEMES)}")
    url, tls = broker_tls(broker_url)
    options: dict[str, object] = tls | {
        "broker_url": url,
        "task_queues": [billing_queue(scheme), webhooks_queue(scheme)],
        "task_default_queue": QUEUE,
        "task_default_exchange": QUEUE,
        "task_default_exchange_type": "topic",
        "task_default_routing_key": QUEUE,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
    }
    if scheme == "filesystem":
        options |= _filesystem(broker_url)
    elif scheme.startswith("amqp"):
        # Confirmed: a publish returns only after the quorum queue has the message.
        options["broker_transport_options"] = {"confirm_publish": True}
    return options


def bounded_options(broker_url: str, timeout_s: int) -> dict[str, object]:
    """`broker_options`, with every wait for the broker bounded by `timeout_s` seconds."""
    options = broker_options(broker_url)
    scheme = urlsplit(broker_url).scheme
    waits: dict[str, object] = {}
    if scheme.startswith("amqp"):
        waits = {"confirm_publish": True, "confirm_timeout": timeout_s}
        waits |= {"read_timeout": timeout_s, "write_timeout": timeout_s}
    elif scheme.startswith("redis"):
        waits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    if waits:
        options["broker_transport_options"] = waits
    return options | {"broker_connection_timeout": timeout_s}


def _filesystem(broker_url: str) -> dict[str, object]:
    folder = Path(broker_url.removeprefix("filesystem://") or DEFAULT_FOLDER)
    messages, control = folder / "messages", folder / "control"
    try:
        for each in (messages, control):
            each.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest("broker_url", f"its folder can't be made: {error}") from error
    return {
        "broker_url": "filesystem://",
        "broker_transport": "relay_billing.embedded:Transport",
        "broker_transport_options": {
            "data_folder_in": str(messages),
            "data_folder_out": str(messages),
            "control_folder": str(control),
        },
    }


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
        """`failed` is told of jobs that the broker did not take; unset: nobody is."""
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
                self._thread = threading.Thread(target=self._work, args=(self._app(),), name=name, daemon=True)
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
        from celery import Celery

        # Not the current app: a relay that uses Celery itself keeps its own.
        app = Celery("relay_billing", set_as_current=False)
        app.conf.update(self._options)
        # Celery imports as it goes. Done here: a fork while another thread imports leaves the child half of a module.
        app.amqp.Producer(app.connection_for_write(), auto_declare=False).release()
        return app

    def _work(self, app: "Celery") -> None:
        waiting = self._waiting
        while (receipt := waiting.get()) is not None:
            receipt.finish(self._send(app, receipt.jobs))
        app.close()

    def _send(self, app: "Celery", jobs: Sequence[Job]) -> bool:
        messages: dict[str, list[Job]] = {}
        for job in jobs:
            messages.setdefault(task_of(job), []).append(job)
        try:
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
        except Exception as error:  # noqa: BLE001, whatever a driver raises (a nack is no KombuError), the thread goes on
            log.warning("the broker did not take %d jobs, their intents stand: %s", len(jobs), error)
            self._tell(jobs)
            return False
        return True
