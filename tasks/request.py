"""One delivery of a task, as the worker's main process sees it."""

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request

from tasks import letterbox

ASKED_FOR = (Reject, Ignore, Retry, WorkerLostError, Terminated, MemoryError)
"""Ends that a task chose, or that give the message back."""


class LedgerRequest(Request):
    """Keeps a message whose task could not even begin, one that can't be decoded for example: Celery would drop it."""

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Bury what Celery would reject for good; the rest is Celery's."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if not isinstance(error, ASKED_FOR) and not self.acknowledged:
            self.acknowledged: bool = True
            letterbox.keep(self.name, self.message, f"{type(error).__name__}: {error}")
        super().on_failure(exc_info, send_failed_event, return_ok)
