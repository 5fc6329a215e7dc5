"""One delivery of a task, as the worker's main process sees it.

Read in celery 5.6.3. `Task.Request` and `on_failure` are public; the attributes with an underscore, `time_limits` and
`request_dict` are not. Tried first: the signals `task_received` and `task_failure`, and `Task.on_failure`. The first
comes after events and logs have shown the message, the others after Celery has acknowledged or rejected it; and no
setting overrides a sender's own time limits, `argsrepr` and `kwargsrepr`.
"""

from functools import partial

import structlog
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry
from celery.worker.request import Request
from kombu import Message

from relay_billing.domain.messages import summary
from tasks.undeliverable import UNDELIVERABLE, Ending

log = structlog.get_logger("worker")

ASKED_FOR = (Reject, Ignore, Retry, WorkerLostError, Terminated, MemoryError)
"""Failures that a task chose, or after which the message goes back to the queue."""


class LedgerRequest(Request):
    """Keeps a message whose task could not begin, one that can't be decoded for example: Celery would drop it.

    Logs, events and inspections show a summary of its jobs, never the message, and never the text that its sender
    gave for them: either may be a list of 500 jobs, or hold a secret.
    """

    def __init__(self, message: Message, **options: object) -> None:
        super().__init__(message, **options)
        if not isinstance(self._args, list) or not isinstance(self._kwargs, dict):
            raise InvalidTaskError("its body must be [args, kwargs, embed], a list, an object and an object")
        # Senders set no time limits here; a limit of the wrong type would end the worker.
        self.time_limits: tuple[float | None, float | None] = (None, None)
        # Where these are empty, Celery shows the real arguments instead.
        self._argsrepr = "(...)" if self._args else "()"
        self._kwargsrepr = summary(self._kwargs.get("jobs"))
        self.request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def info(self, safe: bool = False) -> dict[str, object]:
        """What an inspection is shown: the short form, whatever it asks for."""
        short: dict[str, object] = super().info(safe=True)
        return short

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Keep as a dead letter what Celery would drop; the rest is Celery's."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if not isinstance(error, ASKED_FOR) and not self.acknowledged:
            self.acknowledged: bool = True
            # Celery's own callbacks for both, which run in the loop that owns the channel.
            ending = Ending(
                partial(self.on_ack, log, self.connection_errors),
                partial(self.on_reject, log, self.connection_errors, True),
            )
            UNDELIVERABLE.keep(self.name, self.message, f"{type(error).__name__}: {error}", ending)
        super().on_failure(exc_info, send_failed_event, return_ok)
