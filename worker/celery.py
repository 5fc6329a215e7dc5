"""The app that `celery -A worker` finds. Tasks are listed by name, never discovered."""

from celery import Celery, signals

from config.celery import options
from worker import health, logs, startup

TASKS = (
    "tasks.settle",
    "tasks.refund",
    "tasks.sweep",
    "tasks.subscriptions",
    "tasks.reconcile",
    "tasks.purge",
    "tasks.webhooks",
)

settings = startup.settings()
app = Celery("worker", include=TASKS)
app.conf.update(options(settings))


@signals.setup_logging.connect
def _log(**_: object) -> None:
    logs.configure(settings.log_format)


@signals.worker_init.connect
@signals.beat_init.connect
def _check(**_: object) -> None:
    startup.check_database(settings)


@signals.worker_ready.connect
def _worker_lives(**_: object) -> None:
    health.beat_forever(health.heartbeat_file(settings.var_dir, "worker"))


@signals.beat_init.connect
def _beat_lives(**_: object) -> None:
    health.beat_forever(health.heartbeat_file(settings.var_dir, "beat"))
