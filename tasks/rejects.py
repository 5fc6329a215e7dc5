"""Empties the queue to which RabbitMQ moves what it gave out too often: applied after all, or buried."""

import structlog
from kombu import Message
from kombu.exceptions import ContentDisallowed, DecodeError

from relay_billing import deadletters
from relay_billing.domain.jobs import REFUND_TASK, SETTLE_TASK
from relay_billing.publisher import dead_queue
from tasks.base import LedgerTask

log = structlog.get_logger("tasks")

UNREADABLE = (ContentDisallowed, DecodeError, LookupError, ValueError, TypeError)
"""What decoding foreign bytes ends in."""
MAX_MESSAGES = 200
"""Of one sweep; the next one goes on."""


def drain(task: LedgerTask) -> int:
    """Deal with what waits in the queue; return how many messages. Other brokers have no such queue."""
    dealt_with = 0
    with task.app.connection_for_read() as connection:
        if connection.transport.driver_type != "amqp":
            return 0
        queue = dead_queue()(connection.default_channel)
        queue.declare()
        while dealt_with < MAX_MESSAGES and (message := queue.get()) is not None:
            _deal_with(task, message)
            message.ack()
            dealt_with += 1
    return dealt_with


def _deal_with(task: LedgerTask, message: Message) -> None:
    name = str((message.headers or {}).get("task", "unknown"))
    if name in task.app.tasks and name not in (SETTLE_TASK, REFUND_TASK):
        # Periodic work whose message expired while no worker could take it: beat has asked again since.
        log.info("a periodic task's old message is dropped", task=name)
        return
    try:
        args, kwargs, _ = message.decode()
        readable = name in (SETTLE_TASK, REFUND_TASK) and isinstance(args, list) and isinstance(kwargs, dict)
    except UNREADABLE as error:
        log.warning("a rejected message can't be decoded", task=name, error=str(error))
        readable = False
    if not readable:
        raw = message.body.decode("utf-8", "backslashreplace") if isinstance(message.body, bytes) else message.body
        body = {"headers": dict(message.headers or {}), "body": raw}
        task.bury([deadletters.of_message(name, body, deadletters.INVALID_MESSAGE, "the broker rejected it")])
        return
    unknown = task.deal_with(name, args, kwargs, came_back=True)
    task.bury([deadletters.of_unknown(answer) for answer in unknown])
