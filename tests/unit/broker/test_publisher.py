"""The thread that posts jobs survives whatever posting them raises."""

import pytest
from amqp.exceptions import MessageNacked
from celery import Celery
from kombu.exceptions import OperationalError

from relay_billing import SettleJob
from relay_billing.broker.publisher import Publisher

PATIENCE_S = 10


@pytest.mark.parametrize("error", [MessageNacked(), OperationalError("refused"), OSError("cut"), KeyError("driver")])
def test_a_post_that_fails_is_told_and_the_next_one_is_posted(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Exception | None] = [error, None]

    def send_task(*_: object, **__: object) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    monkeypatch.setattr(Celery, "send_task", send_task)
    publisher = Publisher("redis://127.0.0.1:1/0", 1)
    job = SettleJob("r1", 5)
    assert not publisher.post([job]).wait(PATIENCE_S)
    assert publisher.post([job]).wait(PATIENCE_S)
    publisher.close()
