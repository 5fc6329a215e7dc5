"""The worker's app for tests: a job with a certain request id kills the process that judges it."""

import os
import signal
from collections.abc import Sequence

from relay_billing.domain.jobs import Answer, Job
from relay_billing.ledger import Ledger
from worker.celery import app as app

DEADLY = "deadly"

_judge = Ledger.judge


def judge(self: Ledger, jobs: Sequence[Job]) -> list[Answer]:
    """Die before anything is written."""
    if any(job.request_id == DEADLY for job in jobs):
        os.kill(os.getpid(), signal.SIGKILL)
    return _judge(self, jobs)


Ledger.judge = judge  # type: ignore[method-assign]
