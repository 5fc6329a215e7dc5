"""Celery's consumer, with three differences: it drops no message, forgets none, and tells whether it takes jobs."""

from collections.abc import Callable

from billiard.pool import CLOSE, ApplyResult
from celery import bootsteps
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.base import BasePool
from celery.worker.consumer import Consumer
from kombu import Message

from tasks import letterbox
from worker.signs import Sign, Stage, alive

MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What Celery's consumer ends in, and the worker with it, over an envelope whose parts are of the wrong kinds."""


def _task_of(message: Message) -> str:
    return str((message.headers or {}).get("task", "unknown"))


class LedgerConsumer(Consumer):
    """Keeps as dead letters what Celery would log and drop."""

    def create_task_handler(self, **options: object) -> Callable[[Message], None]:
        """Celery's, with an end for messages that it can't take apart."""
        handle = super().create_task_handler(**options)

        def on_task_received(message: Message) -> None:
            try:
                handle(message)
            except MALFORMED as error:
                if message.acknowledged:
                    raise
                letterbox.keep(_task_of(message), message, f"{type(error).__name__}: {error}")

        return on_task_received

    def on_unknown_message(self, body: object, message: Message) -> None:
        """It is not Celery's at all."""
        letterbox.keep(_task_of(message), message, "it is no message of Celery's")

    def on_unknown_task(self, body: object, message: Message, exc: Exception) -> None:
        """No such task is known here."""
        letterbox.keep(_task_of(message), message, f"no task is called {exc}")

    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> None:
        """Its envelope makes no sense."""
        letterbox.keep(_task_of(message), message, f"{type(exc).__name__}: {exc}")

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """It can't be decoded."""
        letterbox.keep(_task_of(message), message, f"{type(exc).__name__}: {exc}")

    def on_close(self) -> None:
        """Celery's, but a worker that ends waits for every message that a child has been sent.

        Celery's forgets those that the child has not confirmed yet. Then nobody reads what becomes of them: the child
        waits half a minute to be heard, and the message is not acknowledged though it was applied.
        """
        sent = _sent(self.pool)
        super().on_close()
        for job in sent:
            job._cache.setdefault(job._job, job)


def _sent(pool: BasePool) -> list[ApplyResult]:
    """What children of a pool that ends have been sent and have not answered.

    What was sent in part is sent to its end: a child that waits for the rest would never hear that it is to end.
    """
    prefork = getattr(pool, "_pool", None)
    if not isinstance(prefork, AsynPool) or prefork._state != CLOSE:
        return []
    sent = [job for job in tuple(prefork._cache.values()) if job._write_to is not None and job._write_to._is_alive()]
    for job in sent:
        writer = job._writer()
        if writer in prefork._active_writers:
            prefork._flush_writer(job._write_to, writer)
    return sent


def children_of(consumer: Consumer) -> int:
    """How many processes of its pool live; 0 for a pool that has none."""
    processes = (consumer.pool.info or {}).get("processes", ()) if consumer.pool else ()
    # One that is about to start is listed already, without an id.
    return sum(alive(pid) for pid in processes if pid is not None)


def readiness(sign: Sign) -> type:
    """A step of the consumer that says on `sign` whether jobs are taken: not before the queue is, nor after a loss."""

    class Readiness(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Consumer) -> None:
            sign.say(Stage.CONSUMING)

        def stop(self, consumer: Consumer) -> None:
            sign.say(Stage.CONNECTING)

    return Readiness
