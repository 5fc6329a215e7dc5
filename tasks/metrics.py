"""The counters. No label holds a user, a token or a request id."""

from prometheus_client import Counter

JOBS = Counter("billing_jobs", "Jobs judged, by task and outcome", ["task", "outcome"])
TOKEN_ERRORS = Counter("billing_token_errors", "Settles whose token was gone")
DEAD_LETTERS = Counter("billing_dead_letters", "Jobs kept as dead letters, by reason", ["reason"])
WEBHOOKS = Counter("billing_webhooks", "Events sent to the webhook, by type and what came of it", ["event", "result"])
SWEPT = Counter("billing_swept", "What periodic jobs did", ["what"])
DRIFTS = Counter("billing_drifts", "Things that did not add up in a reconciliation")
