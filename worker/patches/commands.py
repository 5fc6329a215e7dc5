"""Remote control over the broker: workers answer questions about themselves, and refuse commands that change them.

Read in celery 5.6.3, whose worker answers what is in `celery.worker.control.Panel.data`. Tried first: the setting
`worker_enable_remote_control`, which turns off all commands, `ping` and Flower's too. No setting turns off some.

Whoever reaches the broker can send commands, so none may shut a worker down, resize it, limit or revoke its tasks, or
change its queues. To end a worker, send its process SIGTERM: it finishes the batch in hand and exits.
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
"""What Flower and `celery inspect` ask, and what workers exchange at their start."""


def restrict() -> None:
    """Refuse every other command, with a log line and an answer to its sender."""
    for name in set(Panel.data) - ANSWERED:
        Panel.data[name] = _refusal(name)


def _refusal(name: str) -> Callable[..., dict[str, str]]:
    def refuse(state: object, **_: object) -> dict[str, str]:
        log.warning("a command sent over the broker is refused", command=name)
        return {"error": f"{name} is refused: workers take no commands over the broker, send the process a signal"}

    return refuse
