"""Celery's options and the beat schedule, each with its why."""

from pathlib import Path

from config.settings import Settings
from relay_billing.broker.options import broker_options
from relay_billing.domain.jobs import CACHES_TASK, WEBHOOKS_QUEUE


def options(settings: Settings) -> dict[str, object]:
    """Celery's options, of which many keep jobs from being lost."""
    chosen = broker_options(settings.broker_url)
    redis = settings.broker_url.startswith("redis")
    filesystem = settings.broker_url.startswith("filesystem")
    if redis:
        chosen["broker_transport_options"] = {
            # A killed worker's jobs are redelivered after this time ...
            "visibility_timeout": settings.visibility_timeout,
            # ... because kombu looks for them every 2 s; its default is about every 100 s.
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            # A Redis that no longer answers is noticed, not waited for: beat and retries post from here too.
            "socket_keepalive": True,
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "health_check_interval": 10,
        }
    return chosen | {
        # A message is acknowledged after its transaction, and given back when the child process that had it dies.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # Celery's default True acknowledges a failed job, and so loses it.
        "task_acks_on_failure_or_timeout": False,
        # Results are in the database. None: else beat would post celery.backend_cleanup, which is no task here.
        "task_ignore_result": True,
        "result_expires": None,
        # A job that runs when the connection is lost goes on; its copy will be a duplicate.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # On quorum queues the reduced prefetch count would never be raised again after a reconnect (celery 9512).
        "worker_enable_prefetch_count_reduction": False,
        # RabbitMQ 4.3 refuses queues that are neither durable nor exclusive.
        "control_queue_exclusive": True,
        "event_queue_exclusive": True,
        # A broker's outage is waited out, at start and later.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Seconds after SIGTERM to finish and acknowledge the batch in hand.
        "worker_soft_shutdown_timeout": 10.0,
        # Measured (docs/performance.md): 1 leaves children waiting, a sixth slower with one job a message; 16 and 64
        # gain nothing on Redis, and what one worker has taken another can't do. Files are polled once a second, so
        # take many.
        "worker_prefetch_multiplier": 64 if filesystem else 4,
        # Flower shows tasks by these events. With one job a message they cost a quarter of the main process's time.
        "worker_send_task_events": True,
        # structlog configures logging.
        "worker_hijack_root_logger": False,
        "timezone": "UTC",
        "beat_schedule": schedule(settings),
        "beat_schedule_filename": str(Path(settings.var_dir) / "beat-schedule"),
        "beat_max_loop_interval": 5,
    }


def schedule(settings: Settings) -> dict[str, dict[str, object]]:
    """The periodic tasks. A message that waits longer than its own interval expires: the next one does its work."""
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
    if settings.new_api_redis_url:
        interval = settings.caches_interval
        chosen[CACHES_TASK] = {"task": CACHES_TASK, "schedule": float(interval), "options": {"expires": interval}}
    if settings.webhook_url:
        interval = settings.webhook_interval
        # In a queue of their own: a slow receiver delays no settle.
        options: dict[str, object] = {"expires": interval, "queue": WEBHOOKS_QUEUE}
        chosen[WEBHOOKS_QUEUE] = {"task": WEBHOOKS_QUEUE, "schedule": float(interval), "options": options}
    return chosen
