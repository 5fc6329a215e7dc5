"""What Celery's consumer would drop, it keeps."""

from types import SimpleNamespace

import pytest
from amqp.exceptions import NotFound
from celery import Celery
from celery.exceptions import InvalidTaskError
from celery.worker.request import Request
from celery.worker.state import reserved_requests
from kombu import Message
from kombu.asynchronous import Hub

from tasks.undeliverable import UNDELIVERABLE, Ending
from worker.patches.consumer import ConsumerLost, LedgerConsumer

APP = Celery("test", set_as_current=False, broker="memory://")
TASK = "billing.settle"
CASES: list[tuple[dict[str, object] | None, bytes, str]] = [
    (None, b"{}", "no message of Celery's"),
    ({}, b"{}", "no message of Celery's"),
    ({}, b"\xff", "DecodeError"),
    ({"task": "billing.nonsense"}, b"[]", "no task is called 'billing.nonsense'"),
    ({"task": TASK, "id": "wrong"}, b"[]", "InvalidTaskError: wrong"),
    ({"task": TASK, "id": "crooked"}, b"[]", "ValueError: crooked"),
]


def strategy(message: Message, *_: object) -> None:
    """As Celery's ends over an envelope that is no task's, and over one of the wrong kinds."""
    name = message.headers["id"]
    raise (InvalidTaskError if name == "wrong" else ValueError)(name)


class Told(Message):  # type: ignore[misc]
    """A message that says what becomes of it."""

    def __init__(self, headers: dict[str, object] | None, body: bytes) -> None:
        super().__init__(body=body, headers=headers, content_type="application/json", content_encoding="utf-8")
        self.headers = headers
        self.became: list[str] = []

    def ack_log_error(self, *_: object, **__: object) -> None:
        """It is done with."""
        self.became.append("acknowledged")

    def reject_log_error(self, log: object, errors: object, requeue: bool = False) -> None:
        """It goes back, or is dropped."""
        self.became.append("given back" if requeue else "dropped")


def made(app: Celery = APP, **options: object) -> LedgerConsumer:
    """A consumer without a worker around it."""
    controller = SimpleNamespace(use_eventloop=False, semaphore=None)
    return LedgerConsumer(lambda request: None, app=app, controller=controller, **options)


@pytest.mark.parametrize(("headers", "body", "why"), CASES)
def test_a_message_is_kept_before_it_is_acknowledged(
    headers: dict[str, object] | None, body: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[str, Ending]] = []

    def keep(task: str, message: Message, detail: str, ending: Ending) -> None:
        kept.append((f"{task} {detail}", ending))

    monkeypatch.setattr(UNDELIVERABLE, "keep", keep)
    consumer = made()
    consumer.strategies[TASK] = strategy
    message = Told(headers, body)
    assert (consumer.received, consumer.idle) == (0, True)
    consumer.create_task_handler()(message)
    ((detail, ending),) = kept
    assert why in detail
    assert message.became == []
    assert (consumer.received, consumer.idle) == (1, False)
    ending.acknowledge()
    consumer.perform_pending_operations()
    ending.give_back()
    consumer.perform_pending_operations()
    assert message.became == ["acknowledged", "given back"]
    assert consumer.idle


def test_a_worker_is_not_idle_with_a_request_that_it_has_not_finished() -> None:
    consumer, request = made(), object.__new__(Request)
    request._id = "r1"
    reserved_requests.add(request)
    assert not consumer.idle
    reserved_requests.discard(request)
    assert consumer.idle


def test_a_worker_knows_the_queues_that_it_consumes_from() -> None:
    app = Celery("test", set_as_current=False, broker="memory://")
    app.amqp.queues.select("billing")
    assert made(app).queue_names == {"billing"}


def test_the_loop_connects_anew_when_it_is_asked_to_and_has_not_since() -> None:
    hub = Hub()
    consumer = made(hub=hub)
    said: list[str] = []
    consumer.renew("starved", lambda: said.append("connecting"))
    with pytest.raises(ConsumerLost, match="starved") as raised:
        next(hub.create_loop())
    assert said == ["connecting"]
    assert isinstance(raised.value, consumer.connection_errors)
    consumer.renew("starved", lambda: said.append("connecting"))
    consumer.restart_count += 1
    next(hub.create_loop())
    assert said == ["connecting"]
    hub.close()


def test_a_queue_that_is_not_there_is_declared_again_instead_of_ending_the_worker() -> None:
    assert NotFound in made().connection_errors
