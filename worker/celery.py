"""The app that `celery -A worker` finds. Tasks are listed by name, never discovered."""

import os
import signal
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery, signals

from config import logs, startup
from config.celery import options
from config.refusal import ends_the_process
from relay_billing.broker.options import AMQP
from worker.monitoring import counting
from worker.patches import commands
from worker.patches.events import Events
from worker.process.consuming import children_of, readiness
from worker.process.heartbeat import Heartbeat
from worker.process.stage import Stage
from worker.process.state import OwnState

if TYPE_CHECKING:
    from worker.patches.consumer import LedgerConsumer

TASKS = (
    "tasks.settle",
    "tasks.refund",
    "tasks.sweep",
    "tasks.subscriptions",
    "tasks.reconcile",
    "tasks.purge",
    "tasks.webhooks",
    "tasks.caches",
)


CONSUMER = "worker.patches.consumer:LedgerConsumer"
REQUEST = "worker.patches.request:LedgerRequest"
"""Named here, not where `config` and `tasks` read them: those may not import `worker`, a name in a string included."""


class App(Celery):
    """Celery's app; in a process that becomes a worker it prepares prometheus_client's multiprocess folder."""

    counts: Path | None = None

    @cached_property
    def Worker(self) -> type:  # noqa: N802, the name is Celery's
        """The class Celery builds a worker from, read just before the tasks are imported and create their counters."""
        if settings.metrics_port:
            self.counts = counting.prepare(settings.var_dir)
        made: type = self.subclass_with_self("celery.apps.worker:Worker")
        return made


with ends_the_process():
    settings = startup.settings()
own = OwnState(settings.var_dir)
app = App("worker", include=TASKS, events=Events, amqp=AMQP)
app.conf.update(options(settings) | {"worker_consumer": CONSUMER})

if "flower.command" in sys.modules:
    # Only the `celery` command imports it; other processes need no web server.
    from worker.patches import flower

    flower.register(settings)

app.steps["consumer"].add(readiness(own))


@app.on_after_finalize.connect
def _only_ours(sender: Celery, **_: object) -> None:
    # Celery registers tasks of its own (celery.chord, ...): whoever can post to the queue could run them.
    for name in [each for each in sender.tasks if not each.startswith("billing.")]:
        sender.tasks.unregister(name)


@signals.worker_init.connect
def _restrict(**_: object) -> None:
    commands.restrict()


@signals.setup_logging.connect
def _log(**_: object) -> None:
    logs.configure(settings.log_format, startup.secrets(settings))


signals.task_prerun.connect(logs.begin_task)
signals.task_postrun.connect(logs.end_task)


@signals.worker_init.connect
@signals.beat_init.connect
@ends_the_process()
def _check(**_: object) -> None:
    startup.check_database(settings)


@signals.worker_init.connect
def _receive(**_: object) -> None:
    # Imported late: this creates counters, which need the worker's multiprocess folder.
    from tasks.base import LedgerTask

    LedgerTask.Request = REQUEST


@signals.worker_ready.connect
def _worker_lives(sender: "LedgerConsumer", **_: object) -> None:
    # Imported late: this creates counters, too.
    from worker.process.watch import ConsumerWatch

    ConsumerWatch(settings, sender, own).start()
    Heartbeat(settings.var_dir, "worker").beat_forever(_look_around)
    if app.counts is not None:
        from worker.monitoring import exposition
        from worker.monitoring.gauges import Own

        facts = Own(lambda: own.stage is Stage.CONSUMING, lambda: children_of(sender))
        exposition.serve(settings, app.counts, facts)


def _look_around() -> None:
    own.touch()
    if own.stage is not Stage.DRAINING and own.asked_to_drain():
        own.say(Stage.DRAINING)
        # Celery's warm shutdown: takes no more jobs, finishes those in hand, returns the rest to the broker.
        os.kill(os.getpid(), signal.SIGTERM)


@signals.worker_shutting_down.connect
def _worker_drains(**_: object) -> None:
    own.say(Stage.DRAINING)


@signals.worker_shutdown.connect
def _worker_ends(**_: object) -> None:
    own.remove()


@signals.beat_init.connect
def _beat_lives(**_: object) -> None:
    Heartbeat(settings.var_dir, "beat").beat_forever()
