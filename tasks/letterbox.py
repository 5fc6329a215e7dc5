"""Keeps what Celery itself would drop: messages of no known task, that can't be decoded, or whose task can't begin."""

import time

import structlog
from kombu import Message

from config.settings import load
from relay_billing import deadletters
from relay_billing.domain.errors import BillingError
from relay_billing.ledger import Ledger
from relay_billing.store.drivers import engine_of
from tasks import metrics

log = structlog.get_logger("tasks")

PAUSE_S = 1.0
"""Wait before a message that could not be kept is given back, so that an outage makes no storm of it."""


def keep(task: str, message: Message, detail: str) -> None:
    """Bury a message whole and acknowledge it; while the database is away, give it back.

    Runs in the worker's main process, so it leaves no connection open behind it: children may fork at any time.
    """
    body = {"headers": dict(message.headers or {}), "body": _text(message.body)}
    letter = deadletters.of_message(task, body, deadletters.INVALID_MESSAGE, detail)
    settings = load()
    engine = engine_of(settings.database_url)
    try:
        Ledger(engine, settings.policy).bury([letter])
    except BillingError as error:
        log.error("a message could not be kept, it goes back", task=task, detail=detail, error=str(error))
        time.sleep(PAUSE_S)
        message.reject_log_error(log, (OSError,), requeue=True)
        return
    finally:
        engine.dispose()
    metrics.DEAD_LETTERS.labels(deadletters.INVALID_MESSAGE).inc()
    log.error("dead letter", task=task, reason=deadletters.INVALID_MESSAGE, detail=detail)
    message.ack_log_error(log, (OSError,))


def _text(body: object) -> str:
    return body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else str(body)
