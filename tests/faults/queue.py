"""The broker's queues, asked and deleted past the product."""

import redis
from amqp.exceptions import AMQPError
from kombu import Connection

from relay_billing.broker.queues import DEAD_QUEUE
from relay_billing.domain.jobs import QUEUE, WEBHOOKS_QUEUE
from tests.fixtures.brokers import Broker

QUEUES = (QUEUE, DEAD_QUEUE, WEBHOOKS_QUEUE)
"""Each with an exchange of the same name, or without one."""


def waiting(broker: Broker) -> int | None:
    """Messages that no worker has taken; None: there is no queue, or the broker does not say."""
    if broker.name == "redis":
        with redis.Redis(port=broker.port) as asked:
            return int(asked.llen(QUEUE))
    with Connection(broker.url) as connection:
        try:
            return int(connection.default_channel.queue_declare(QUEUE, passive=True).message_count)
        except (AMQPError, OSError):
            # RabbitMQ says no (not found, or not ready yet) by closing the channel or the connection.
            return None


def made(broker: Broker) -> bool:
    """Whether the queue is there, ready to be asked. Redis makes a list of its own accord."""
    return waiting(broker) is not None


def delete_queues(broker: Broker) -> None:
    """RabbitMQ: with what is in them, whoever consumes from them."""
    with Connection(broker.url) as connection:
        for name in QUEUES:
            connection.default_channel.queue_delete(name)


def delete_exchanges(broker: Broker) -> None:
    """RabbitMQ: with their bindings."""
    with Connection(broker.url) as connection:
        for name in QUEUES:
            connection.default_channel.exchange_delete(name)
