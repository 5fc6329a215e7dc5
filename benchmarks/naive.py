"""A Celery app as one writes it first: one task a settle, the ORM way inside; acknowledged late."""

import os

from celery import Celery
from sqlalchemy import create_engine

from benchmarks import baselines

app = Celery("naive", broker=os.environ.get("NAIVE_BROKER_URL"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_default_queue="naive",
    broker_connection_retry_on_startup=True,
    # RabbitMQ may refuse Celery's own queues without these.
    control_queue_exclusive=True,
    event_queue_exclusive=True,
    worker_prefetch_multiplier=4,
    # As ours, which Flower needs.
    worker_send_task_events=True,
)
_engines: dict[int, object] = {}


@app.task(name="naive.settle")  # type: ignore[untyped-decorator]
def settle(request_id: str, actual: int) -> None:
    """Charge one request."""
    process = os.getpid()
    if process not in _engines:
        _engines[process] = create_engine(os.environ["NAIVE_DATABASE_URL"])
    baselines.orm_settle(_engines[process], request_id, actual)  # type: ignore[arg-type]
