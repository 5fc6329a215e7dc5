"""How messages are posted: what RabbitMQ sends back, for it has no such queue, counts as not posted.

Read in celery 5.6.3, kombu 5.7.0 and amqp 5.4.2. Leans on `AMQP.Producer`, `AMQP._producer_pool` (which Celery forgets
after a fork) and `Connection.declared_entities`. Tried first: `mandatory` and `confirm_publish` alone. What comes back
raises nothing, or raises for the next message; and no option of Celery gives a producer an `on_return`.
"""

from collections.abc import Sequence
from time import monotonic

from celery.app import amqp
from kombu import Connection, Message, Producer, Queue, pools
from kombu.exceptions import OperationalError

REDECLARE_AFTER_S = 2.0
"""How long a queue that is missing is left to its consumers, who declare it when RabbitMQ tells them that it is gone.

RabbitMQ (3.10.8) takes 10 to 100 ms to tell them. A queue that is declared anew before that keeps them, and they are
given nothing: what is delivered to them is lost on the way until they connect again.
"""


class Undelivered(OperationalError):
    """RabbitMQ has sent a message back: it has no queue for it."""


class MandatoryProducer(Producer):
    """Raises for messages that come back, and declares their queue when nobody else has in `REDECLARE_AFTER_S`.

    kombu declares a queue once for each connection, and RabbitMQ confirms what it drops. Without a handler py-amqp
    raises for a returned message between the return and its confirmation, which then passes for that of the next one.
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
        """Post one message. Raises Undelivered, or what kombu does."""
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
    """For `Celery(amqp=...)`: whatever an app posts goes through the producer above."""

    Producer = MandatoryProducer
    _producer_pool: pools.ProducerPool | None = None

    @property
    def producer_pool(self) -> pools.ProducerPool:
        """Celery's, with our producers; Celery forgets it after a fork."""
        if self._producer_pool is None:
            connections = self.app.pool
            self._producer_pool = pools.ProducerPool(connections, limit=connections.limit, Producer=MandatoryProducer)
        return self._producer_pool
