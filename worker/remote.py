"""What workers may be asked over the broker: to tell about themselves, never to do anything.

Whoever reaches the broker can send these commands, so they are no way to shut workers down, resize them, limit or
revoke their tasks, or make them consume other queues. For that there are signals: SIGTERM finishes the batch in hand
and exits.
"""

from celery.worker.control import Panel

ANSWERED = frozenset(
    {
        "active",
        "active_queues",
        "clock",
        "conf",
        "enable_events",
        "heartbeat",
        "hello",
        "ping",
        "query_task",
        "registered",
        "reserved",
        "revoked",
        "scheduled",
        "stats",
    }
)
"""What Flower and `celery inspect` ask, and what workers tell one another at their start."""


def restrict() -> None:
    """Forget every other command; a worker that is sent one logs it as unknown and does nothing."""
    for name in set(Panel.data) - ANSWERED:
        del Panel.data[name]
