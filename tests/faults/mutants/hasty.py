"""Mutant: a worker that acknowledges a job before it is applied."""

from tasks.base import LedgerTask
from worker.celery import app as app

LedgerTask.acks_late = False
LedgerTask.reject_on_worker_lost = False
app.conf.update(task_acks_late=False, task_reject_on_worker_lost=False)
