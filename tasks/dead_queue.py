"""Empties RabbitMQ's queue of messages that were delivered too often: jobs are applied, or become dead letters."""

import structlog
from kombu import Connection, Message
from kombu.exceptions import ContentDisallowed, DecodeError

from relay_billing.broker.queues import dead_queue
from relay_billing.domain.dead_letters import Letter
from relay_billing.domain.jobs import REFUND_TASK, SETTLE_TASK
from tasks.job_task import JobTask

log = structlog.get_logger("tasks")

UNREADABLE = (ContentDisallowed, DecodeError, LookupError, ValueError, TypeError)
"""What decoding foreign bytes may raise."""
MAX_MESSAGES = 200
"""Most messages that one sweep takes; the next one goes on."""


def drain(task: JobTask, connection: Connection) -> int:
    """Deal with the messages in the dead queue; return how many there were. On other brokers there is none: 0."""
    dealt_with = 0
    if connection.transport.driver_type != "amqp":
        return 0
    queue = dead_queue()(connection.default_channel)
    queue.declare()
    while dealt_with < MAX_MESSAGES and (message := queue.get()) is not None:
        _deal_with(task, message)
        message.ack()
        dealt_with += 1
    return dealt_with


def _deal_with(task: JobTask, message: Message) -> None:
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
        task.keep_letters([Letter.of_message(name, body, "the broker rejected it")])
        return
    unknown = task.deal_with(name, args, kwargs, came_back=True)
    task.keep_letters([Letter.of_unknown(answer) for answer in unknown])
