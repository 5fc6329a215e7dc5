"""One delivery of a task, as the worker's main process sees it."""

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry
from celery.worker.request import Request
from kombu import Message

from relay_billing.domain.jobs import summary
from tasks import letterbox

ASKED_FOR = (Reject, Ignore, Retry, WorkerLostError, Terminated, MemoryError)
"""Ends that a task chose, or that give the message back."""


class LedgerRequest(Request):
    """Keeps a message whose task could not even begin, one that can't be decoded for example: Celery would drop it.

    Logs, events and whoever inspects the worker are shown a summary of its jobs, never the message, and never what its
    poster would have them show: that may be a list of 500 jobs, or a secret.
    """

    def __init__(self, message: Message, **options: object) -> None:
        super().__init__(message, **options)
        if not isinstance(self._args, list) or not isinstance(self._kwargs, dict):
            raise InvalidTaskError("its body must be [args, kwargs, embed], a list, an object and an object")
        # How long a transaction may take is not for posters to say; nonsense in here would end the worker.
        self.time_limits: tuple[float | None, float | None] = (None, None)
        # Empty ones would have Celery show the real ones in their place.
        self._argsrepr = "(...)" if self._args else "()"
        self._kwargsrepr = summary(self._kwargs.get("jobs"))
        self.request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def info(self, safe: bool = False) -> dict[str, object]:
        """What an inspection is told; short, whatever it asks for."""
        told: dict[str, object] = super().info(safe=True)
        return told

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Bury what Celery would reject for good; the rest is Celery's."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if not isinstance(error, ASKED_FOR) and not self.acknowledged:
            self.acknowledged: bool = True
            letterbox.keep(self.name, self.message, f"{type(error).__name__}: {error}")
        super().on_failure(exc_info, send_failed_event, return_ok)
