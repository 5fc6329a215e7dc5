"""Every event of an app of ours is sent with a bound on its retries."""

from celery import Celery

from worker.patches.events import ONCE_MORE, Events, PromptDispatcher


class Recorded:
    """A producer that keeps how it was asked to post."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []

    def publish(self, event: object, **options: object) -> None:
        self.asked.append(options)


def test_a_heartbeat_that_celery_would_send_for_ever_is_tried_once_more() -> None:
    app = Celery("test", set_as_current=False, broker="memory://", events=Events)
    producer = Recorded()
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, enabled=False)
        assert isinstance(dispatcher, PromptDispatcher)
        dispatcher.enabled, dispatcher.producer = True, producer
        # As celery.worker.heartbeat sends it.
        dispatcher.send("worker-heartbeat", freq=2, retry=True)
    (asked,) = producer.asked
    assert (asked["retry"], asked["retry_policy"]) == (True, ONCE_MORE)
    app.close()
