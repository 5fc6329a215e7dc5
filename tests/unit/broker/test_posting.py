"""Whatever an app of ours posts goes through the producer that hears what RabbitMQ sends back."""

import inspect

from celery import Celery
from kombu import Connection, Producer, Queue
from kombu.common import maybe_declare

from relay_billing.broker.options import AMQP
from relay_billing.broker.posting import MandatoryProducer


def test_every_producer_of_an_app_is_ours_and_a_fork_gets_its_own() -> None:
    app = Celery("test", set_as_current=False, broker="memory://", amqp=AMQP)
    assert app.amqp.Producer is MandatoryProducer
    pool = app.amqp.producer_pool
    with pool.acquire(block=True) as producer:
        assert isinstance(producer, MandatoryProducer)
    assert app.amqp.producer_pool is pool
    # What Celery calls in a child.
    app._after_fork()
    assert app.amqp.producer_pool is not pool
    app.close()


def test_kombu_has_what_the_producer_leans_on() -> None:
    assert "on_return" in inspect.signature(Producer.__init__).parameters
    assert "declare" in inspect.signature(Producer.publish).parameters
    with Connection("memory://") as connection:
        queue = Queue("billing", channel=connection.default_channel)
        assert maybe_declare(queue)
        assert not maybe_declare(queue), "kombu declares it every time: nothing has to be forgotten"
        connection.declared_entities.clear()
        assert maybe_declare(queue)
