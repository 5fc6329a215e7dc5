"""Celery's consumer, with one difference: no message is dropped."""

from celery.worker.consumer import Consumer
from kombu import Message

from tasks import letterbox


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
