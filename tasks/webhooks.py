"""`billing.webhooks`, in a queue of its own: sends due events to the operator's webhook, outside of transactions."""

import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import structlog
from celery import shared_task

import relay_billing.flows.webhooks as flow
from config.settings import Settings
from relay_billing.domain.jobs import WEBHOOKS_QUEUE
from relay_billing.flows.webhooks import Webhook
from tasks import metrics
from tasks.base import LedgerTask
from tasks.webhook_http import EVENT_ID, EVENT_TYPE, SIGNATURE, post, signature

log = structlog.get_logger("tasks")

BUDGET_S = 8.0
"""Seconds after which a run sends no further event: with the last one it ends before the visibility time-out."""
MAX_SENDINGS = 200
"""Most events that one run sends; the next one goes on."""
MAX_FAILURES = 3
"""Failures after which a run ends: the receiver is down, and the other events keep their attempts."""


def _headers(settings: Settings, webhook: Webhook, body: bytes) -> Mapping[str, str]:
    return {
        SIGNATURE: signature(settings.webhook_secrets, int(time.time()), body),
        EVENT_ID: webhook.event_id,
        EVENT_TYPE: webhook.event,
        "User-Agent": "relay-billing",
    }


def send(task: LedgerTask, settings: Settings, webhook: Webhook) -> bool:
    """Send one claimed event, and record the result; False: it was not delivered."""
    body = webhook.body.encode()
    headers = _headers(settings, webhook, body)
    error = post(settings.webhook_url, body, headers, allow_private=settings.webhook_allow_private)
    state = task.patiently(task.ledger.run, flow.close, webhook, error)
    metrics.WEBHOOKS.labels(webhook.event, "put off" if state == "pending" else state).inc()
    record = log.info if error is None else log.error if state == "failed" else log.warning
    record(
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
    """Send due events, one by one; each is claimed in a transaction that ends before it is sent."""
    settings = self.settings
    if not settings.webhook_url:
        return
    deadline, failures = time.monotonic() + BUDGET_S, 0
    for _ in range(MAX_SENDINGS):
        if failures >= MAX_FAILURES or time.monotonic() > deadline:
            return
        claimed = self.patiently(self.ledger.run, flow.claim, 1)
        if not claimed:
            return
        failures += not send(self, settings, claimed[0])
