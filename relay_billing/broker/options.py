"""Celery's settings for a broker, derived from its URL. Pure: opens no connection and creates no folder."""

from urllib.parse import urlsplit

from relay_billing.broker.folder import filesystem_folder
from relay_billing.broker.queues import DEAD_QUEUE, QUEUES, billing_queue, webhooks_queue
from relay_billing.broker.tls import broker_tls
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.jobs import QUEUE, WEBHOOKS_QUEUE

SCHEMES = ("redis", "rediss", "amqp", "amqps", "filesystem")
AMQP = "relay_billing.broker.posting:Amqp"
"""How every app of ours posts: `Celery(amqp=AMQP)`."""


def _straight_to(queue: str) -> dict[str, object]:
    """A route to a queue through the default exchange, which needs no declaration and can't be deleted.

    It needs no binding either: Redis keeps bindings among its keys, and may lose them. `mandatory`: RabbitMQ returns a
    message that it can't route; otherwise it would drop and confirm it.
    """
    return {"queue": queue, "exchange": "", "routing_key": queue, "mandatory": True}


def broker_options(broker_url: str) -> dict[str, object]:
    """Celery's settings for a broker, the same for relay and worker: queue, exchange, folder, JSON only.

    `redis://`, `rediss://`, `amqp://`, `amqps://`, or `filesystem://FOLDER` (unset: `var/broker`); `rediss://` and
    `amqps://` with the parameters of `tls.broker_tls`. Raises InvalidRequest for another scheme or a wrong parameter.
    """
    try:
        scheme = urlsplit(broker_url).scheme
    except ValueError as error:
        raise InvalidRequest("broker_url", "is not a URL, as redis://host:6379/0") from error
    if scheme not in SCHEMES:
        raise InvalidRequest("broker_url", f"must begin with one of {', '.join(each + '://' for each in SCHEMES)}")
    url, tls = broker_tls(broker_url)
    options: dict[str, object] = tls | {
        "broker_url": url,
        "task_queues": [billing_queue(scheme), webhooks_queue(scheme)],
        "task_default_queue": QUEUE,
        "task_default_exchange": QUEUE,
        "task_default_exchange_type": "topic",
        "task_default_routing_key": QUEUE,
        "task_routes": {WEBHOOKS_QUEUE: _straight_to(WEBHOOKS_QUEUE), "billing.*": _straight_to(QUEUE)},
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
    }
    if scheme == "filesystem":
        options |= _filesystem(broker_url)
    elif scheme.startswith("amqp"):
        # Confirmed: a publish returns only after the quorum queue has the message.
        options["broker_transport_options"] = {"confirm_publish": True}
    return options


def bounded_options(broker_url: str, timeout_s: int) -> dict[str, object]:
    """`broker_options`, with every wait for the broker bounded by `timeout_s` seconds."""
    options = broker_options(broker_url)
    scheme = urlsplit(broker_url).scheme
    waits: dict[str, object] = {}
    if scheme.startswith("amqp"):
        waits = {"confirm_publish": True, "confirm_timeout": timeout_s}
        waits |= {"read_timeout": timeout_s, "write_timeout": timeout_s}
    elif scheme.startswith("redis"):
        waits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    if waits:
        options["broker_transport_options"] = waits
    return options | {"broker_connection_timeout": timeout_s}


def _filesystem(broker_url: str) -> dict[str, object]:
    folder = filesystem_folder(broker_url)
    messages, control = folder / "messages", folder / "control"
    return {
        "broker_url": "filesystem://",
        "broker_transport": "relay_billing.broker.filesystem:Transport",
        "broker_transport_options": {
            "data_folder_in": str(messages),
            "data_folder_out": str(messages),
            "control_folder": str(control),
        },
    }


def queue_names(broker_url: str) -> tuple[str, ...]:
    """The names of our queues on this broker."""
    return (*QUEUES, DEAD_QUEUE) if broker_url.startswith("amqp") else QUEUES
