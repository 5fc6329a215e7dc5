"""The queues, as relay and worker declare them: durable, and on RabbitMQ kept by a majority of its nodes."""

from typing import TYPE_CHECKING

from relay_billing.domain.jobs import QUEUE, WEBHOOKS_QUEUE

if TYPE_CHECKING:
    # Imported where it is used: with Celery it is a fifth of what importing this package takes.
    from kombu import Queue

DEAD_QUEUE = f"{QUEUE}.dead"
QUEUES = (QUEUE, WEBHOOKS_QUEUE)
"""On every broker; RabbitMQ has a dead queue besides."""
DELIVERY_LIMIT = 20
"""Deliveries of one message by RabbitMQ; above what the worker counts, so that poison is found there first."""


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
            # What kills every worker that takes it comes to an end; the sweep deals with the dead queue.
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": DEAD_QUEUE,
            # A dead message waits here until the dead queue has confirmed it.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    return _queue(QUEUE, "topic", arguments)


def webhooks_queue(scheme: str) -> "Queue":
    """The queue `billing.webhooks`: beat asks here for deliveries; a message that is lost is asked for again."""
    quorum: dict[str, object] = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    return _queue(WEBHOOKS_QUEUE, "topic", quorum if scheme.startswith("amqp") else None)


def dead_queue() -> "Queue":
    """RabbitMQ's queue of messages that were rejected, or given out too often."""
    return _queue(DEAD_QUEUE, "fanout", {"x-queue-type": "quorum"})
