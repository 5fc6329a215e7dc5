"""Celery's events, sent without waiting for a broker that is away.

Read in celery 5.6.3. `Celery(events=...)` is public; that it creates its `dispatcher_cls`, and that every event
goes through `EventDispatcher.send`, is not. Tried first: the option `--without-heartbeat`, without which Flower
shows the worker as offline, and task events are still retried the same way; no setting bounds the retries.
"""

from celery.app import events
from celery.events import dispatcher

ONCE_MORE = {"max_retries": 1, "interval_start": 0.0, "interval_step": 0.0, "interval_max": 0.0}
"""A lost connection is opened again immediately, or not at all."""


class PromptDispatcher(dispatcher.EventDispatcher):
    """Keeps events that can't be sent now, and sends them later.

    Celery's retries a heartbeat until the broker answers, in the loop in which the worker consumes. A heartbeat that
    is due before the loop has noticed the lost connection blocks the loop for the whole outage: the worker reports that
    it consumes, and can't be stopped.
    """

    def send(self, type: str, **options: object) -> None:  # noqa: A002, the name is Celery's
        """Celery's, with a bound on its retries."""
        super().send(type, **{"retry_policy": ONCE_MORE, **options})


class Events(events.Events):
    """For `Celery(events=...)`."""

    dispatcher_cls = PromptDispatcher
