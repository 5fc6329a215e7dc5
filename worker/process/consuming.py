"""What is known of a running consumer: whether it takes jobs, and how many processes of its pool live."""

from celery import bootsteps
from celery.worker.consumer import Consumer

from worker.pid import alive
from worker.process.stage import Stage
from worker.process.state import OwnState


def children_of(consumer: Consumer) -> int:
    """Live processes of the consumer's pool; 0 for a pool without processes."""
    processes = (consumer.pool.info or {}).get("processes", ()) if consumer.pool else ()
    # A process about to start is listed without an id.
    return sum(alive(pid) for pid in processes if pid is not None)


def readiness(own: OwnState) -> type:
    """A step of the consumer that records in `own` whether jobs are taken, from its start to a lost connection."""

    class Readiness(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Consumer) -> None:
            own.say(Stage.CONSUMING)

        def stop(self, consumer: Consumer) -> None:
            own.say(Stage.CONNECTING)

    return Readiness
