"""Jobs sent to the children of a pool that ends: Celery forgets those that the child has not confirmed yet.

Read in celery 5.6.3 (`AsynPool.flush`) and billiard 4.3.2 (`ApplyResult`). Tried first: the setting
`worker_soft_shutdown_timeout`, which Celery heeds only in a cold shutdown; and billiard's `synack`,
which Celery's prefork pool sets to False itself.
"""

from billiard.pool import CLOSE, ApplyResult
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.base import BasePool


def unanswered(pool: BasePool) -> list[ApplyResult]:
    """Jobs sent to the children of a pool that ends, and without a result yet.

    A job sent in part is sent to its end: a child that waits for the rest would never read that it is to end.
    """
    prefork = getattr(pool, "_pool", None)
    if not isinstance(prefork, AsynPool) or prefork._state != CLOSE:
        return []
    sent = [job for job in tuple(prefork._cache.values()) if job._write_to is not None and job._write_to._is_alive()]
    for job in sent:
        writer = job._writer()
        if writer in prefork._active_writers:
            prefork._flush_writer(job._write_to, writer)
    return sent


def wait_for(jobs: list[ApplyResult]) -> None:
    """Have the pool wait for these jobs: it ends when it has none left in its cache."""
    for job in jobs:
        job._cache.setdefault(job._job, job)
