"""One delivery, as the worker's main process sees it: what it shows, and what it keeps."""

import json

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.exceptions import InvalidTaskError, Reject
from kombu import Message

from tasks.undeliverable import UNDELIVERABLE, Ending
from worker.patches.request import LedgerRequest

APP = Celery("test", set_as_current=False, broker="memory://")


# Not shared: else every app that is made later has this one in the place of the real one.
@APP.task(name="billing.settle", ignore_result=True, shared=False)  # type: ignore[untyped-decorator]
def settle(jobs: object) -> None:
    """A task of this name."""


def request(body: object = None, **headers: object) -> LedgerRequest:
    """A delivery with what a poster may write into its envelope."""
    jobs = {"jobs": [{"request_id": "r1", "actual_quota": 5, "key": "geheim"}]}
    message = Message(
        body=json.dumps([[], jobs, {}] if body is None else body),
        headers={"task": "billing.settle", "id": "t1", **headers},
        content_type="application/json",
        content_encoding="utf-8",
    )
    return LedgerRequest(message, app=APP, task=settle)


def test_nobody_is_shown_what_a_poster_would_have_them_show() -> None:
    made = request(argsrepr="geheim", kwargsrepr="geheim", timelimit=[0.1, 0.1])
    assert made.time_limits == (None, None)
    assert made.kwargsrepr == made.info()["kwargs"] == "1 job, first r1, 5 quota"
    assert "geheim" not in repr(made) + json.dumps(made.info())
    # What a child runs with, and Celery's own log line shows.
    assert made.request_dict["kwargsrepr"] == "1 job, first r1, 5 quota"


@pytest.mark.parametrize("body", [[{}, {}, {}], [[], [], {}]])
def test_a_body_of_other_kinds_is_no_task(body: object) -> None:
    with pytest.raises(InvalidTaskError):
        request(body)


def failed(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except Exception:  # noqa: BLE001, whatever the case names
        return ExceptionInfo()


@pytest.mark.parametrize(("error", "kept"), [(ValueError("no body"), True), (Reject("away", requeue=True), False)])
def test_a_message_whose_task_could_not_begin_is_kept_and_one_given_back_is_not(
    error: Exception, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def keep(task: str, message: Message, detail: str, ending: Ending) -> None:
        found.append(f"{task}: {detail}")

    monkeypatch.setattr(UNDELIVERABLE, "keep", keep)
    rejected: list[bool] = []
    made = request()
    made._on_reject = lambda log, errors, requeue: rejected.append(requeue)
    made.on_failure(failed(error))
    assert found == (["billing.settle: ValueError: no body"] if kept else [])
    assert rejected == ([] if kept else [True])
