"""What workers may be asked over the broker: to tell about themselves, never to do anything.

Whoever reaches the broker can send these commands, so they are no way to shut workers down, resize them, limit or
revoke their tasks, or make them consume other queues. For that there are signals: SIGTERM finishes the batch in hand
and exits.
"""

from collections.abc import Callable

import structlog
from celery.worker.control import Panel

log = structlog.get_logger("worker")

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
    """Have every other command refused, with a line in the log and an answer for who sent it."""
    for name in set(Panel.data) - ANSWERED:
        Panel.data[name] = _refusal(name)


def _refusal(name: str) -> Callable[..., dict[str, str]]:
    def refuse(state: object, **_: object) -> dict[str, str]:
        log.warning("a command sent over the broker is refused", command=name)
        return {"error": f"{name} is refused: workers take no commands over the broker, send the process a signal"}

    return refuse
