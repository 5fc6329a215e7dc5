"""Celery's consumer, with two differences: no message is dropped, and it says whether it takes jobs."""

from celery import bootsteps
from celery.worker.consumer import Consumer
from kombu import Message

from tasks import letterbox
from worker.signs import Sign, Stage


def _task_of(message: Message) -> str:
    return str((message.headers or {}).get("task", "unknown"))


class LedgerConsumer(Consumer):
    """Keeps as dead letters what Celery would log and drop."""

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


def readiness(sign: Sign) -> type:
    """A step of the consumer that says on `sign` whether jobs are taken: not before the queue is, nor after a loss."""

    class Readiness(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Consumer) -> None:
            sign.say(Stage.CONSUMING)

        def stop(self, consumer: Consumer) -> None:
            sign.say(Stage.CONNECTING)

    return Readiness
