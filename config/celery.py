"""Celery's options and the beat schedule, each with its why."""

from pathlib import Path

from config.settings import Settings
from relay_billing.domain.jobs import WEBHOOKS_QUEUE
from relay_billing.publisher import broker_options


def options(settings: Settings) -> dict[str, object]:
    """Everything that makes Celery safe for money."""
    chosen = broker_options(settings.broker_url)
    redis = settings.broker_url.startswith("redis")
    filesystem = settings.broker_url.startswith("filesystem")
    if redis:
        chosen["broker_transport_options"] = {
            # A killed worker's jobs are back after this time ...
            "visibility_timeout": settings.visibility_timeout,
            # ... because kombu looks for them every 2 s; by default it does so only about every 100 s.
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            # A black-holed Redis is noticed, not waited for: beat and retries post from here too.
            "socket_keepalive": True,
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "health_check_interval": 10,
        }
    return chosen | {
        # Acknowledged after the transaction, and given back when the child that had it died.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # On by default, and then a job that failed is acknowledged, that is: lost.
        "task_acks_on_failure_or_timeout": False,
        # Keeps what Celery would log and drop.
        "worker_consumer": "worker.consumer:LedgerConsumer",
        # Results are in the database. Without this beat would post celery.backend_cleanup, which is no task here.
        "task_ignore_result": True,
        "result_expires": None,
        # A job that runs when the connection is lost goes on; its copy will be a duplicate.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Quorum queues: the count would never be raised again after a reconnect (celery 9512).
        "worker_enable_prefetch_count_reduction": False,
        # RabbitMQ 4.3 refuses queues that are neither durable nor exclusive.
        "control_queue_exclusive": True,
        "event_queue_exclusive": True,
        # Outages are waited out, at start as later.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # SIGTERM: the batch in hand is finished and acknowledged.
        "worker_soft_shutdown_timeout": 10.0,
        # Measured (docs/performance.md): 1 leaves children waiting, a sixth slower with one job a message; 16 and 64
        # gain nothing on Redis, and what one worker has taken another can't do. Files are polled once a second, so
        # take many.
        "worker_prefetch_multiplier": 64 if filesystem else 4,
        # Flower sees tasks come and go. The price: with one job a message, a quarter of the main process's time.
        "worker_send_task_events": True,
        # structlog has the log.
        "worker_hijack_root_logger": False,
        "timezone": "UTC",
        "beat_schedule": schedule(settings),
        "beat_schedule_filename": str(Path(settings.var_dir) / "beat-schedule"),
        "beat_max_loop_interval": 5,
    }


def schedule(settings: Settings) -> dict[str, dict[str, object]]:
    """The periodic tasks; one that waited longer than its own interval is dropped, the next one does its work."""
    intervals = {
        "billing.sweep": settings.sweep_interval,
        "billing.subscriptions": settings.subscriptions_interval,
        "billing.reconcile": settings.reconcile_interval,
        "billing.purge": settings.purge_interval,
    }
    chosen: dict[str, dict[str, object]] = {
        task: {"task": task, "schedule": float(interval), "options": {"expires": interval}}
        for task, interval in intervals.items()
    }
    if settings.webhook_url:
        interval = settings.webhook_interval
        # In a queue of their own: a receiver that is slow keeps no settle waiting.
        options: dict[str, object] = {"expires": interval, "queue": WEBHOOKS_QUEUE}
        chosen[WEBHOOKS_QUEUE] = {"task": WEBHOOKS_QUEUE, "schedule": float(interval), "options": options}
    return chosen
