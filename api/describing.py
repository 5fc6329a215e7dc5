"""What the description says beyond the types: the limits and meaning of each field, the answers of each route."""

from dataclasses import dataclass, field
from typing import Any

from relay_billing.domain.checks import MAX_ID, MAX_MODEL_NAME, MAX_REASON, MAX_REQUEST_ID
from relay_billing.domain.money import MAX_QUOTA

_ID = {"minimum": 1, "maximum": MAX_ID}
_QUOTA = {"minimum": 0, "maximum": MAX_QUOTA}
_TEXT = {"pattern": "^[^\\u0000]*$"}

FIELDS: dict[str, dict[str, Any]] = {
    "request_id": {"minLength": 1, "maxLength": MAX_REQUEST_ID, **_TEXT, "description": "Of one relayed request"},
    "user_id": _ID,
    "token_id": {**_ID, "description": "null in the playground, and only there"},
    "quota": {**_QUOTA, "description": "Quota: to hold, or in the wallet, which may be below 0"},
    "model_name": {"maxLength": MAX_MODEL_NAME, **_TEXT},
    "preference": {
        "description": "`subscription_first` (also unset), `wallet_first`, `subscription_only`, `wallet_only`"
    },
    "playground": {"description": "A request without an API key"},
    "force_pre_consume": {"description": "Hold even where trust would hold nothing"},
    "hold_ttl": {"minimum": 1, "maximum": 10 * 366 * 86_400, "description": "Seconds until the hold expires"},
    "target_quota": {**_QUOTA, "description": "Quota that the session holds afterwards; less changes nothing"},
    "actual_quota": {**_QUOTA, "description": "Quota that was really used"},
    "reason": {"maxLength": MAX_REASON, **_TEXT, "description": "Why; kept on the session"},
    "needs_refund": {"description": "Open, and something is held"},
    "code": {"description": "What programs look at"},
    "skip_retry": {"description": "true: another channel, or the same call again, would meet the same refusal"},
    "field": {"description": "The input that can't be used"},
    "remaining": {"description": "Quota that is there"},
    "needed": {"description": "Quota that is needed"},
    "subscriptions": {"description": "By id, those that have ended too"},
    "open_holds": {"description": "Sessions that are neither settled nor refunded"},
}
"""By name, wherever the field stands. Checked by the domain; a test compares these limits with it."""

_GUARDED = (401, 403, 503)
_POSTED = (400, 401, 403, 408, 413, 415, 500, 503)


@dataclass(frozen=True, slots=True)
class Described:
    """One route in words."""

    name: str
    summary: str
    answers: dict[int, str]
    """By status: the schema of its JSON, `object`, or a media type of text."""
    problems: tuple[int, ...] = ()
    body: str | None = None
    text: str = ""
    parameters: tuple[dict[str, Any], ...] = field(default=())


_DRY_RUN = {
    "name": "dry_run",
    "in": "query",
    "schema": {"type": "boolean", "default": False},
    "description": "true: the answer that a hold would have; nothing moves",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_REQUEST_ID, "pattern": "^[!-~]+$"},
    "description": "The request id; the body may leave it out then, and may not have another",
}

DESCRIBED = {
    "/v1/sessions": Described(
        "hold",
        "Hold quota before the call goes out",
        {201: "Session", 200: "Session"},
        (*_POSTED, 409),
        "Hold",
        "200 with `Idempotent-Replayed: true`: an earlier call with this request id opened the session. 200 without: a "
        "dry run.",
        (_DRY_RUN, _KEY),
    ),
    "/v1/sessions/{request_id}": Described(
        "get", "Look at a session", {200: "Session"}, (400, 401, 403, 404, 500, 503)
    ),
    "/v1/sessions/{request_id}/reserve": Described(
        "reserve", "Raise the hold of an open session", {200: "Session"}, (*_POSTED, 404), "Reserve"
    ),
    "/v1/sessions/{request_id}/settle": Described(
        "settle", "Charge what was really used; answered when that is safe", {202: "Ended"}, _POSTED, "Settle"
    ),
    "/v1/sessions/{request_id}/refund": Described(
        "refund", "Give the hold back; answered when that is safe", {202: "Ended"}, _POSTED, "Refund"
    ),
    "/v1/sessions:batch": Described(
        "holdEach",
        "Hold for up to 500 requests, each by itself",
        {200: "HeldEach"},
        _POSTED,
        "Holds",
        "A session or a problem for each, in order; a problem has a `code`.",
    ),
    "/v1/ends:batch": Described(
        "endEach",
        "Settle or refund up to 500 sessions, each by itself",
        {200: "EndedEach"},
        _POSTED,
        "Ends",
        "With `actual_quota` a settle, without it a refund.",
    ),
    "/v1/users/{user_id}": Described(
        "user", "A user's wallet, subscriptions and open holds", {200: "UserBalance"}, (400, 401, 403, 404, 500, 503)
    ),
    "/v1/tokens/{token_id}": Described(
        "token", "A token's limit and open holds", {200: "TokenBalance"}, (400, 401, 403, 404, 500, 503)
    ),
    "/livez": Described("livez", "Whether the process answers", {200: "text/plain"}),
    "/readyz": Described("readyz", "Whether it should get requests", {200: "text/plain", 503: "text/plain"}),
    "/metrics": Described("metrics", "The metrics of this process", {200: "text/plain"}, _GUARDED),
    "/openapi.json": Described("openapi", "This description", {200: "object"}),
}
"""By path."""
