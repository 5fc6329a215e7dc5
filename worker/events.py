"""Celery's events, sent without waiting for a broker that is away."""

from celery.app import events
from celery.events import dispatcher

ONCE_MORE = {"max_retries": 1, "interval_start": 0.0, "interval_step": 0.0, "interval_max": 0.0}
"""A connection that was lost is made anew at once, or not at all."""


class PromptDispatcher(dispatcher.EventDispatcher):
    """Keeps for later what can't be sent now.

    Celery's sends heartbeats until the broker answers, from the loop in which the worker consumes. A heartbeat that is
    due before the loop has noticed the loss holds it for the whole outage: the worker says that it consumes, and can't
    be stopped.
    """

    def send(self, type: str, **options: object) -> None:  # noqa: A002, the name is Celery's
        """Celery's, with a bound on its retries."""
        super().send(type, **{"retry_policy": ONCE_MORE, **options})


class Events(events.Events):
    """For `Celery(events=...)`."""

    dispatcher_cls = PromptDispatcher
