"""How many messages wait at the broker, how long the oldest has waited, and how many workers consume."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kombu import Connection
from kombu.exceptions import ChannelError, OperationalError

from relay_billing.broker.options import bounded_options, queue_names
from relay_billing.broker.publisher import POSTED_AT
from relay_billing.broker.queues import QUEUES

TIMEOUT_S = 1
"""Seconds that the broker may take for one answer."""
MAX_FILES = 100_000
"""Messages counted at most in a queue of the filesystem broker; a longer queue shows this number."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue. Messages that a worker has taken and not acknowledged are not counted."""

    name: str
    messages: int
    oldest_at: int | None
    """Unix milliseconds at which the next message was posted; None: there is none, or the broker can't report it."""
    consumers: int | None
    """Consumers that RabbitMQ knows, 0 for a queue that is not there; None: another broker, which knows of none."""


class BrokerAway(Exception):
    """The broker did not answer; the message says why, without the URL's password."""


@contextmanager
def asking(broker_url: str) -> Iterator[Callable[[], tuple[QueueState, ...]]]:
    """Connect to the broker, and give a function that asks for its queues; it takes and moves no message.

    Each answer may take `TIMEOUT_S`. Raises BrokerAway, also for what fails in the block.

    RabbitMQ reports no age: to read a message is to take it, and a quorum queue counts that as a delivery.
    """
    options = bounded_options(broker_url, TIMEOUT_S)
    transport = options.get("broker_transport_options")
    assert isinstance(transport, dict)
    if broker_url.startswith("filesystem"):
        folder = Path(transport["data_folder_in"])
        yield lambda: tuple(_files(folder, name) for name in QUEUES)
        return
    connection = Connection(options["broker_url"], transport_options=transport, connect_timeout=TIMEOUT_S)
    known = (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)
    try:
        with connection:
            connection.connect()
            yield partial(_redis if broker_url.startswith("redis") else _rabbitmq, connection)
    except known as error:
        raise BrokerAway(f"{type(error).__name__}: {error}".split("\n")[0]) from error


def _redis(connection: Connection) -> tuple[QueueState, ...]:
    client = connection.default_channel.client
    states = []
    for name in QUEUES:
        # kombu pushes on the left and pops on the right.
        messages, oldest = client.llen(name), client.lindex(name, -1)
        states.append(QueueState(name, int(messages), None if oldest is None else _posted_at(oldest), None))
    return tuple(states)


def _rabbitmq(connection: Connection) -> tuple[QueueState, ...]:
    states = []
    for name in queue_names("amqp"):
        try:
            # One channel for each: RabbitMQ closes a channel that asked for an unknown queue.
            with connection.channel() as channel:
                declared = channel.queue_declare(queue=name, passive=True)
        except ChannelError:
            # Nobody has declared it yet, so nothing waits there.
            states.append(QueueState(name, 0, None, 0))
        except connection.channel_errors:
            states.append(QueueState(name, 0, None, 0))
        else:
            states.append(QueueState(name, int(declared.message_count), None, int(declared.consumer_count)))
    return tuple(states)


def _files(folder: Path, queue: str) -> QueueState:
    messages, oldest = 0, None
    for file in folder.glob(f"*.{queue}.msg"):
        if messages == MAX_FILES:
            break
        try:
            at = int(file.stat().st_mtime * 1000)
        except FileNotFoundError:
            # Taken while we looked.
            continue
        messages, oldest = messages + 1, at if oldest is None else min(oldest, at)
    return QueueState(queue, messages, oldest, None)


def _posted_at(raw: bytes) -> int | None:
    """When the message was posted, by its header; None where a foreign message has none, or is no JSON."""
    try:
        headers = json.loads(raw)["headers"]
    except (ValueError, TypeError, KeyError):
        return None
    posted_at = headers.get(POSTED_AT) if isinstance(headers, Mapping) else None
    return posted_at if isinstance(posted_at, int) else None
