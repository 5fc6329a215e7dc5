"""Celery's consumer, with two differences: no message is dropped, and it says whether it takes jobs."""

from collections.abc import Callable

from celery import bootsteps
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
