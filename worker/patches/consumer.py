"""Celery's consumer, changed to lose no message: none is dropped, and none of those sent to a child is forgotten.

Read in celery 5.6.3. The setting `worker_consumer` is public, the methods below are not. Tried first: the signals
`task_unknown` and `task_rejected`. They fire for some of these messages, not for those that can't be decoded, and
only after Celery has rejected the message: a receiver that fails to keep it can't return it to the queue.
"""

from collections.abc import Callable
from functools import partial

import structlog
from celery.worker.consumer import Consumer
from kombu import Message

from tasks.undeliverable import UNDELIVERABLE, Ending
from worker.patches.pool import unanswered, wait_for

log = structlog.get_logger("worker")

MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What Celery's consumer raises over an envelope with parts of the wrong type; uncaught, it ends the worker."""


def _task_of(message: Message) -> str:
    return str((message.headers or {}).get("task", "unknown"))


class LedgerConsumer(Consumer):
    """Keeps as dead letters what Celery would log and drop."""

    def create_task_handler(self, **options: object) -> Callable[[Message], None]:
        """Celery's handler; a message with a malformed envelope is kept as a dead letter."""
        handle = super().create_task_handler(**options)

        def on_task_received(message: Message) -> None:
            try:
                handle(message)
            except MALFORMED as error:
                if message.acknowledged:
                    raise
                self._keep(message, f"{type(error).__name__}: {error}")

        return on_task_received

    def _keep(self, message: Message, detail: str) -> None:
        """Keep a message in another thread; acknowledge or reject it in the loop, which owns the channel."""
        errors = (OSError, *self.connection_errors)
        ending = Ending(
            partial(self.call_soon, message.ack_log_error, log, errors),
            partial(self.call_soon, message.reject_log_error, log, errors, True),
        )
        UNDELIVERABLE.keep(_task_of(message), message, detail, ending)

    def on_unknown_message(self, body: object, message: Message) -> None:
        """Keep a message that is not Celery's."""
        self._keep(message, "it is no message of Celery's")

    def on_unknown_task(self, body: object, message: Message, exc: Exception) -> None:
        """Keep a message for a task that is not registered."""
        self._keep(message, f"no task is called {exc}")

    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> None:
        """Keep a message with an invalid envelope."""
        self._keep(message, f"{type(exc).__name__}: {exc}")

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Keep a message that can't be decoded."""
        self._keep(message, f"{type(exc).__name__}: {exc}")

    def on_close(self) -> None:
        """Celery's, but a worker that ends waits for every message that it has sent to a child.

        Celery's forgets those that the child has not confirmed yet. Then nobody reads their results: the child waits
        half a minute for a reader, and the message is not acknowledged although it was applied.
        """
        sent = unanswered(self.pool)
        super().on_close()
        wait_for(sent)
