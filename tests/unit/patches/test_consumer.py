"""What Celery's consumer would drop, it keeps."""

from types import SimpleNamespace

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError
from kombu import Message

from tasks.undeliverable import UNDELIVERABLE, Ending
from worker.patches.consumer import LedgerConsumer

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


@pytest.mark.parametrize(("headers", "body", "why"), CASES)
def test_a_message_is_kept_before_it_is_acknowledged(
    headers: dict[str, object] | None, body: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[str, Ending]] = []

    def keep(task: str, message: Message, detail: str, ending: Ending) -> None:
        kept.append((f"{task} {detail}", ending))

    monkeypatch.setattr(UNDELIVERABLE, "keep", keep)
    consumer = LedgerConsumer(lambda request: None, app=APP, controller=SimpleNamespace(use_eventloop=False))
    consumer.strategies[TASK] = strategy
    message = Told(headers, body)
    consumer.create_task_handler()(message)
    ((detail, ending),) = kept
    assert why in detail
    assert message.became == []
    ending.acknowledge()
    consumer.perform_pending_operations()
    ending.give_back()
    consumer.perform_pending_operations()
    assert message.became == ["acknowledged", "given back"]
