"""The queues that relay and worker declare: durable, and quorum queues on RabbitMQ."""

from typing import TYPE_CHECKING

from relay_billing.domain.jobs import QUEUE, WEBHOOKS_QUEUE

if TYPE_CHECKING:
    # Imported where it is used: with Celery it takes a fifth of this package's import time.
    from kombu import Queue

DEAD_QUEUE = f"{QUEUE}.dead"
QUEUES = (QUEUE, WEBHOOKS_QUEUE)
"""On every broker; RabbitMQ has a dead queue besides."""
DELIVERY_LIMIT = 20
"""Most deliveries of one message by RabbitMQ; above the worker's own limits, so that the worker finds poison first."""


def _queue(name: str, exchange_type: str, arguments: dict[str, object] | None) -> "Queue":
    """A durable queue and an exchange of the same name."""
    from kombu import Exchange, Queue

    return Queue(name, Exchange(name, type=exchange_type), routing_key=name, durable=True, queue_arguments=arguments)


def billing_queue(scheme: str) -> "Queue":
    """The queue `billing`, durable; on RabbitMQ a quorum queue, whose delayed jobs need a topic exchange."""
    arguments: dict[str, object] | None = None
    if scheme.startswith("amqp"):
        arguments = {
            "x-queue-type": "quorum",
            # A message that kills every worker ends in the dead queue, which the sweep empties.
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": DEAD_QUEUE,
            # A dead message waits here until the dead queue has confirmed it.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    return _queue(QUEUE, "topic", arguments)


def webhooks_queue(scheme: str) -> "Queue":
    """The queue `billing.webhooks`: beat's requests to send due events. If one is lost, beat's next one replaces it."""
    quorum: dict[str, object] = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    return _queue(WEBHOOKS_QUEUE, "topic", quorum if scheme.startswith("amqp") else None)


def dead_queue() -> "Queue":
    """RabbitMQ's queue of messages that were rejected, or delivered too often."""
    return _queue(DEAD_QUEUE, "fanout", {"x-queue-type": "quorum"})
