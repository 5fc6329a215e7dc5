"""The app that `celery -A worker` finds. Tasks are listed by name, never discovered."""

import os
import signal
import sys
from typing import TYPE_CHECKING

from celery import Celery, signals

from config.celery import options
from worker import counting, health, logs, remote, startup
from worker.events import Events
from worker.signs import Sign, Stage

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer

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
# Before the tasks are imported, and their counters made.
counts = counting.prepare(settings.var_dir) if settings.metrics_port else None
sign = Sign(settings.var_dir)
app = Celery("worker", include=TASKS, events=Events)
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
    logs.configure(settings.log_format, startup.secrets(settings))


signals.task_prerun.connect(logs.begin_task)
signals.task_postrun.connect(logs.end_task)


@signals.worker_init.connect
@signals.beat_init.connect
def _check(**_: object) -> None:
    startup.check_database(settings)


@signals.worker_init.connect
def _consume(**_: object) -> None:
    # Not before: beat and Flower have no consumer, and its module brings the tasks.
    from worker.consumer import readiness

    app.steps["consumer"].add(readiness(sign))


@signals.worker_ready.connect
def _worker_lives(sender: "Consumer", **_: object) -> None:
    health.beat_forever(health.heartbeat_file(settings.var_dir, "worker"), _look_around)
    if counts is not None:
        from worker import exposition
        from worker.consumer import children_of

        own = exposition.Own(lambda: sign.stage is Stage.CONSUMING, lambda: children_of(sender))
        exposition.serve(settings, counts, own)


def _look_around() -> None:
    sign.touch()
    if sign.stage is not Stage.DRAINING and sign.asked_to_drain():
        sign.say(Stage.DRAINING)
        # Celery's own warm end: no more jobs are taken, those in hand are finished, the rest goes back to the broker.
        os.kill(os.getpid(), signal.SIGTERM)


@signals.worker_shutting_down.connect
def _worker_drains(**_: object) -> None:
    sign.say(Stage.DRAINING)


@signals.worker_shutdown.connect
def _worker_ends(**_: object) -> None:
    sign.remove()


@signals.beat_init.connect
def _beat_lives(**_: object) -> None:
    health.beat_forever(health.heartbeat_file(settings.var_dir, "beat"))
