"""Every queue is looked at: what piles up in one that nobody consumes is seen, too."""

from celery import Celery

from relay_billing.broker.options import AMQP, broker_options, queue_names
from relay_billing.broker.queues import DEAD_QUEUE
from relay_billing.domain.jobs import QUEUE, WEBHOOKS_QUEUE
from tests.fixtures.brokers import Broker
from worker.monitoring import queues
from worker.patches import flower_pages


def test_what_waits_in_each_queue_is_seen(broker: Broker) -> None:
    app = Celery("test", set_as_current=False, amqp=AMQP)
    app.conf.update(broker_options(broker.url))
    app.send_task("billing.sweep")
    for _ in range(2):
        app.send_task(WEBHOOKS_QUEUE)
    expected = {QUEUE: 1, WEBHOOKS_QUEUE: 2} | ({DEAD_QUEUE: 0} if broker.name == "rabbitmq" else {})
    with queues.asking(broker.url) as ask:
        assert {each.name: each.messages for each in ask()} == expected
        # A connection that is kept answers again.
        assert {each.consumers for each in ask()} == ({0} if broker.name == "rabbitmq" else {None})
    assert set(queue_names(broker.url)) == set(expected)
    if broker.name != "filesystem":
        found = flower_pages.lengths(app, queue_names(broker.url))
        assert {each["name"]: each["messages"] for each in found} == expected
    app.close()
