"""Posts messages: one that RabbitMQ returns, because its queue does not exist, counts as not posted.

Read in celery 5.6.3, kombu 5.7.0 and amqp 5.4.2. Relies on `AMQP.Producer`, `AMQP._producer_pool` (which Celery resets
after a fork) and `Connection.declared_entities`. Tried first: `mandatory` and `confirm_publish` alone. A returned
message raises nothing, or raises for the next message; and no option of Celery sets a producer's `on_return`.
"""

from collections.abc import Sequence
from time import monotonic

from celery.app import amqp
from kombu import Connection, Message, Producer, Queue, pools
from kombu.exceptions import OperationalError

REDECLARE_AFTER_S = 2.0
"""Seconds that a missing queue is left to its consumers, which declare it when RabbitMQ informs them of the loss.

RabbitMQ (3.10.8) takes 10 to 100 ms to inform them. If the queue is declared before that, they stay registered but get
nothing: messages delivered to them are lost until they reconnect.
"""


class Undelivered(OperationalError):
    """RabbitMQ has returned a message, because its queue does not exist."""


class MandatoryProducer(Producer):
    """Raises for a returned message, and declares its queue if no consumer has in `REDECLARE_AFTER_S`.

    kombu declares a queue only once per connection, and RabbitMQ also confirms messages that it drops. Without an
    `on_return` handler, py-amqp raises before the confirmation arrives, which is then taken for the next message's.
    """

    def __init__(self, connection: Connection, **options: object) -> None:
        self._came_back = False
        self._missing_since: float | None = None
        # Other transports return nothing, and their channels have no events.
        returns = connection.transport.driver_type == "amqp"
        super().__init__(connection, on_return=self._note_return if returns else None, **options)

    def _note_return(self, error: Exception, exchange: str, routing_key: str, message: Message) -> None:
        self._came_back = True

    def publish(self, body: object, declare: Sequence[Queue] | None = None, **options: object) -> None:
        """Post one message. Raises Undelivered, or kombu's errors."""
        if self._missing_since is not None:
            if monotonic() < self._missing_since + REDECLARE_AFTER_S:
                declare = None
            else:
                self.connection.declared_entities.clear()
        self._came_back = False
        super().publish(body, declare=declare, **options)
        if not self._came_back:
            self._missing_since = None
            return
        if declare is not None or self._missing_since is None:
            self._missing_since = monotonic()
        raise Undelivered(f"the broker has no queue for {options.get('routing_key')}")


class Amqp(amqp.AMQP):
    """For `Celery(amqp=...)`: the app posts everything through `MandatoryProducer`."""

    Producer = MandatoryProducer
    _producer_pool: pools.ProducerPool | None = None

    @property
    def producer_pool(self) -> pools.ProducerPool:
        """Celery's pool, with our producers; Celery resets it after a fork."""
        if self._producer_pool is None:
            connections = self.app.pool
            self._producer_pool = pools.ProducerPool(connections, limit=connections.limit, Producer=MandatoryProducer)
        return self._producer_pool
