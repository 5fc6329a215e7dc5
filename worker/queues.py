"""How many messages wait at the broker, and how long the oldest has waited."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kombu import Connection
from kombu.exceptions import ChannelError, OperationalError

from relay_billing.domain.jobs import QUEUE
from relay_billing.publisher import DEAD_QUEUE, POSTED_AT, bounded_options

TIMEOUT_S = 1
"""Seconds that the broker may take for one answer."""
MAX_FILES = 100_000
"""Messages of the filesystem broker that are counted; more are as many."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue. Messages that a worker has taken and not acknowledged are not counted."""

    name: str
    messages: int
    oldest_at: int | None
    """Unix milliseconds when the message that is next was posted; None: there is none, or the broker does not tell."""


class BrokerAway(Exception):
    """The broker did not answer; the message says why, without the URL's password."""


def look(broker_url: str) -> tuple[QueueState, ...]:
    """Ask the broker, which has a second for each answer. Takes and moves no message. Raises BrokerAway.

    RabbitMQ tells no age: to see a message there is to take it, and a quorum queue counts that as a delivery.
    """
    options = bounded_options(broker_url, TIMEOUT_S)
    transport = options.get("broker_transport_options")
    assert isinstance(transport, dict)
    if broker_url.startswith("filesystem"):
        return (_files(Path(transport["data_folder_in"])),)
    connection = Connection(options["broker_url"], transport_options=transport, connect_timeout=TIMEOUT_S)
    known = (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)
    try:
        with connection:
            connection.connect()
            return _redis(connection) if broker_url.startswith("redis") else _rabbitmq(connection)
    except known as error:
        raise BrokerAway(f"{type(error).__name__}: {error}".split("\n")[0]) from error


def _redis(connection: Connection) -> tuple[QueueState, ...]:
    client = connection.default_channel.client
    # kombu pushes on the left and pops on the right.
    messages, oldest = client.llen(QUEUE), client.lindex(QUEUE, -1)
    return (QueueState(QUEUE, int(messages), None if oldest is None else _posted_at(oldest)),)


def _rabbitmq(connection: Connection) -> tuple[QueueState, ...]:
    states = []
    for name in (QUEUE, DEAD_QUEUE):
        try:
            # A channel each: RabbitMQ closes one on which an unknown queue was asked for.
            with connection.channel() as channel:
                declared = channel.queue_declare(queue=name, passive=True)
        except ChannelError:
            # Nobody has declared it yet, so nothing waits there.
            states.append(QueueState(name, 0, None))
        except connection.channel_errors:
            states.append(QueueState(name, 0, None))
        else:
            states.append(QueueState(name, int(declared.message_count), None))
    return tuple(states)


def _files(folder: Path) -> QueueState:
    messages, oldest = 0, None
    for file in folder.glob(f"*.{QUEUE}.msg"):
        if messages == MAX_FILES:
            break
        try:
            at = int(file.stat().st_mtime * 1000)
        except FileNotFoundError:
            # Taken while we looked.
            continue
        messages, oldest = messages + 1, at if oldest is None else min(oldest, at)
    return QueueState(QUEUE, messages, oldest)


def _posted_at(raw: bytes) -> int | None:
    """What the message says of its time; a foreign one may say nothing, or be no JSON at all."""
    try:
        headers = json.loads(raw)["headers"]
    except (ValueError, TypeError, KeyError):
        return None
    told = headers.get(POSTED_AT) if isinstance(headers, Mapping) else None
    return told if isinstance(told, int) else None
