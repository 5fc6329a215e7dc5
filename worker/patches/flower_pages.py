"""Pages in place of Flower's own: lengths of all our queues, on every broker, and `/metrics` behind the password.

Read in flower 2.2.0. Patched are `get_broker`, `get_active_queue_names` and `Metrics.get`. Tried first: the option
`broker_api`, which needs RabbitMQ's management plugin, and shows no queue that no worker consumes. No option closes
`/metrics`.
"""

import asyncio
from collections.abc import Sequence

from celery import Celery
from flower.api.tasks import GetQueueLengths
from flower.views.broker import BrokerView
from flower.views.monitor import Metrics
from tornado.web import authenticated

from relay_billing.broker.options import queue_names

BROKER_TIMEOUT_S = 3.0
"""Seconds to connect to the broker for one reading of the queues."""


def lengths(app: Celery, names: Sequence[str]) -> list[dict[str, object]]:
    """Messages that wait in each queue, asked of the broker itself with the app's own password and TLS.

    What workers have taken and not yet acknowledged is not counted: no broker reports that without a management plugin.
    """
    found: list[dict[str, object]] = []
    with app.connection_for_read(connect_timeout=BROKER_TIMEOUT_S) as connection:
        for name in names:
            # One channel for each: RabbitMQ closes a channel that asked for an unknown queue.
            channel = connection.channel()
            try:
                answer = channel.queue_declare(queue=name, passive=True)
                waiting, consumers = answer.message_count, answer.consumer_count
            except connection.channel_errors:
                # Nothing was posted yet; on Redis an empty queue does not exist.
                waiting, consumers = 0, 0
            finally:
                channel.close()
            row: dict[str, object] = {"name": name, "messages": waiting, "messages_ready": waiting}
            # Only RabbitMQ knows its consumers.
            found.append(row | ({"consumers": consumers} if connection.transport.driver_type == "amqp" else {}))
    return found


class _Queues:
    """Replaces Flower's own broker client, which needs RabbitMQ's management plugin and knows no TLS."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def queues(self, names: Sequence[str]) -> list[dict[str, object]]:
        """The queues with their lengths, read in a thread: the event loop must not wait for the broker."""
        return await asyncio.get_running_loop().run_in_executor(None, lengths, self._app, list(names))


class _AllQueues:
    """A page of all our queues. Flower's hides a queue that no worker consumes, the very one that piles up."""

    capp: Celery

    def get_active_queue_names(self) -> list[str]:
        """Which queues the page shows."""
        return sorted(queue_names(str(self.capp.conf.broker_url)))


class _BrokerPage(_AllQueues, BrokerView):
    """Flower's broker page."""

    def get_broker(self) -> _Queues:
        """Whom the page asks."""
        return _Queues(self.capp)


class _QueueLengths(_AllQueues, GetQueueLengths):
    """Flower's `/api/queues/length`."""

    def get_broker(self) -> _Queues:
        """Whom the page asks."""
        return _Queues(self.capp)


class _MetricsPage(Metrics):
    """Flower's `/metrics`, which Flower leaves open whatever password is set."""

    @authenticated
    async def get(self) -> None:
        """Flower's page, for those who have logged in."""
        await super().get()


PAGES: tuple[tuple[str, type], ...] = (
    ("/broker", _BrokerPage),
    ("/api/queues/length", _QueueLengths),
    ("/metrics", _MetricsPage),
)
