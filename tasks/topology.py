"""Declares exchanges and bindings that a broker has lost. Our own messages go straight to their queue and need none.

Older relays, and those in other languages, post to the exchanges. On RabbitMQ, delayed retries use Celery's delayed
delivery, which needs its bindings.
"""

from amqp.exceptions import NotFound
from kombu import Connection, Queue
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)

from relay_billing.broker.queues import billing_queue, webhooks_queue


def restore(connection: Connection) -> None:
    """Declare exchanges and bindings of our queues. Raises kombu's errors.

    A queue that RabbitMQ has lost is not declared here: its consumers are notified and declare it, or whoever posts
    (`posting.REDECLARE_AFTER_S`).
    """
    if connection.transport.driver_type != "amqp":
        for each in (billing_queue("redis"), webhooks_queue("redis")):
            each(connection.default_channel).declare()
        return
    for each in (billing_queue("amqp"), webhooks_queue("amqp")):
        if _is_there(connection, each):
            each(connection.default_channel).declare()
            _bind_delayed(connection, each)


def _is_there(connection: Connection, queue: Queue) -> bool:
    # A channel of its own: RabbitMQ closes one on which an unknown queue was asked for.
    channel = connection.channel()
    try:
        channel.queue_declare(queue=queue.name, passive=True)
    except NotFound:
        return False
    finally:
        channel.close()
    return True


def _bind_delayed(connection: Connection, queue: Queue) -> None:
    try:
        bind_queue_to_native_delayed_delivery_exchange(connection, queue)
    except NotFound:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        bind_queue_to_native_delayed_delivery_exchange(connection, queue)
