"""A refusal is printed where it ends the process, once, and nowhere else."""

import pytest
from celery.utils.dispatch import Signal

from config.refusal import Refusal, ends_the_process

URL = "redis://:geheim@redis:6379/0"


def test_a_refusal_that_is_made_or_caught_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    made = Refusal(f"BILLING_BROKER_URL: {URL}")
    assert str(made) == "BILLING_BROKER_URL: redis://:***@redis:6379/0"
    with pytest.raises(Refusal):
        raise made
    assert capsys.readouterr() == ("", "")


def test_at_the_edge_it_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, ends_the_process():
        raise Refusal(f"{URL} is away")
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "relay-billing: redis://:***@redis:6379/0 is away\n")


def test_a_receiver_that_refuses_ends_what_celery_would_log_and_go_on_from(capsys: pytest.CaptureFixture[str]) -> None:
    begun = Signal(name="begun")

    @begun.connect  # type: ignore[untyped-decorator]
    @ends_the_process()
    def check(**_: object) -> None:
        raise Refusal("the database is away")

    for _ in range(2):
        with pytest.raises(SystemExit):
            begun.send(sender=None)
    assert capsys.readouterr().err == "relay-billing: the database is away\n" * 2


def test_what_is_no_refusal_passes_the_edge() -> None:
    with pytest.raises(KeyError), ends_the_process():
        raise KeyError
