"""The app that `celery -A worker` finds. Tasks are listed by name, never discovered."""

import sys

from celery import Celery, signals

from config.celery import options
from worker import health, logs, remote, startup

TASKS = ("tasks.settle", "tasks.refund", "tasks.sweep", "tasks.subscriptions", "tasks.reconcile", "tasks.purge")

settings = startup.settings()
app = Celery("worker", include=TASKS)
app.conf.update(options(settings))

if "flower.command" in sys.modules:
    # The `celery` command has brought it; elsewhere nobody needs a web server.
    from worker import flower

    flower.register(settings)


@app.on_after_finalize.connect
def _only_ours(sender: Celery, **_: object) -> None:
    # Celery brings tasks of its own (celery.chord, celery.backend_cleanup ...), which anybody could post to the queue.
    for name in [each for each in sender.tasks if not each.startswith("billing.")]:
        sender.tasks.unregister(name)


@signals.worker_init.connect
def _restrict(**_: object) -> None:
    remote.restrict()


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
