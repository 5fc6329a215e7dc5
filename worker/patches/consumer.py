"""Celery's consumer, changed to lose no message: none is dropped, and none of those sent to a child is forgotten.

Read in celery 5.6.3. The setting `worker_consumer` is public, the methods below are not. Tried first: the signals
`task_unknown` and `task_rejected`. They fire for some of these messages, not for those that can't be decoded, and
only after Celery has rejected the message: a receiver that fails to keep it can't return it to the queue. For a queue
that is deleted before it is consumed from, the setting `broker_channel_error_retry`: with it a worker whose queue was
declared otherwise, or that has no permission, would try again for ever instead of ending.
"""

from collections.abc import Callable
from functools import partial

import structlog
from amqp.exceptions import NotFound, RecoverableConnectionError
from celery.worker.consumer import Consumer
from celery.worker.state import reserved_requests
from kombu import Message

from tasks.undeliverable import UNDELIVERABLE, Ending
from worker.patches.pool import unanswered, wait_for

log = structlog.get_logger("worker")

MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What Celery's consumer raises over an envelope with parts of the wrong type; uncaught, it ends the worker."""


def _task_of(message: Message) -> str:
    return str((message.headers or {}).get("task", "unknown"))


class ConsumerLost(RecoverableConnectionError):
    """The connection is given up, because no messages come over it."""


class LedgerConsumer(Consumer):
    """Keeps as dead letters what Celery would log and drop."""

    received = 0
    """Messages received since the start."""
    connection_errors: tuple[type[Exception], ...]

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        # Celery ends over it: a queue that was deleted between its declaration and the consuming is declared again.
        self.connection_errors = (*self.connection_errors, NotFound)
        self._in_keeping: set[Message] = set()

    @property
    def idle(self) -> bool:
        """Whether this worker has no message in hand; may be asked from any thread."""
        return not reserved_requests and not self._in_keeping

    @property
    def queue_names(self) -> frozenset[str]:
        """The queues that this worker consumes from."""
        return frozenset(self.app.amqp.queues.consume_from)

    def renew(self, reason: str, first: Callable[[], object]) -> None:
        """Have the loop call `first`, give up this connection, and connect anew; may be called from any thread."""
        self.call_soon(self._give_up, self.restart_count, reason, first)

    def _give_up(self, connection: int, reason: str, first: Callable[[], object]) -> None:
        if connection == self.restart_count:
            first()
            raise ConsumerLost(reason)

    def create_task_handler(self, **options: object) -> Callable[[Message], None]:
        """Celery's handler; a message with a malformed envelope is kept as a dead letter."""
        handle = super().create_task_handler(**options)

        def on_task_received(message: Message) -> None:
            self.received += 1
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
        self._in_keeping.add(message)

        def end(how: Callable[..., object], *requeue: bool) -> None:
            self._in_keeping.discard(message)
            how(log, errors, *requeue)

        ending = Ending(
            partial(self.call_soon, end, message.ack_log_error),
            partial(self.call_soon, end, message.reject_log_error, True),
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
        self._in_keeping.clear()
        super().on_close()
        wait_for(sent)
