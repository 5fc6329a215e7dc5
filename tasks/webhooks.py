"""`billing.webhooks`, in a queue of its own: sends what is due to the operator's webhook, outside of transactions."""

import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import structlog
from celery import shared_task

from config.settings import Settings
from relay_billing.domain.jobs import WEBHOOKS_QUEUE
from relay_billing.webhooks import Webhook
from tasks import metrics
from tasks.base import LedgerTask
from tasks.delivery import EVENT_ID, EVENT_TYPE, SIGNATURE, post, signature

log = structlog.get_logger("tasks")

BUDGET_S = 8.0
"""A run that has lasted so long begins no further sending: with the last one it stays below the visibility time-out."""
MAX_SENDINGS = 200
"""Of one run; the next one goes on."""
MAX_FAILURES = 3
"""A run ends after so many: the receiver is down, and the attempts of the others are kept for later."""


def _headers(settings: Settings, webhook: Webhook, body: bytes) -> Mapping[str, str]:
    return {
        SIGNATURE: signature(settings.webhook_secrets, int(time.time()), body),
        EVENT_ID: webhook.event_id,
        EVENT_TYPE: webhook.event,
        "User-Agent": "relay-billing",
    }


def send(task: LedgerTask, settings: Settings, webhook: Webhook) -> bool:
    """Send one claimed event and say how it went; False: it was not taken."""
    body = webhook.body.encode()
    headers = _headers(settings, webhook, body)
    error = post(settings.webhook_url, body, headers, allow_private=settings.webhook_allow_private)
    state = task.patiently(lambda: task.ledger.close_webhook(webhook, error))
    metrics.WEBHOOKS.labels(webhook.event, "put off" if state == "pending" else state).inc()
    told = log.info if error is None else log.error if state == "failed" else log.warning
    told(
        "webhook",
        event_id=webhook.event_id,
        event_type=webhook.event,
        # The path may be a secret.
        host=urlsplit(settings.webhook_url).hostname,
        attempt=webhook.attempts,
        state=state,
        error=error,
    )
    return error is None


@shared_task(bind=True, base=LedgerTask, name=WEBHOOKS_QUEUE)
def webhooks(self: LedgerTask) -> None:
    """Send what is due, one by one; each is claimed in a transaction that ends before it is sent."""
    settings = self.books.open()[1]
    if not settings.webhook_url:
        return
    deadline, failures = time.monotonic() + BUDGET_S, 0
    for _ in range(MAX_SENDINGS):
        if failures >= MAX_FAILURES or time.monotonic() > deadline:
            return
        claimed = self.patiently(lambda: self.ledger.claim_webhooks(1))
        if not claimed:
            return
        failures += not send(self, settings, claimed[0])
