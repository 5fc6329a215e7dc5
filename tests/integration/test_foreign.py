"""Whoever reaches the broker can post what they like: a worker runs `billing.*` as JSON, and nothing else."""

import json
import os
import pickle
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import select

from config.celery import options
from config.settings import Settings
from relay_billing import BillingClient
from relay_billing.schema import billing_dead_letters
from tests.fixtures.accounts import given, states, wallet
from tests.fixtures.waiting import until
from tests.fixtures.wire import EMBED, Foreign
from tests.fixtures.workers import Site

TIMEOUT_S = 60.0
WEALTH = 1_000
JOBS = {"jobs": [{"request_id": "held", "actual_quota": 999}]}
CALL: dict[str, object] = {
    "task": "billing.settle",
    "args": [],
    "kwargs": JOBS,
    "options": {},
    "subtask_type": None,
    "immutable": False,
}
BUILT_IN: tuple[tuple[str, dict[str, object]], ...] = (
    ("celery.backend_cleanup", {}),
    ("celery.accumulate", {}),
    ("celery.chain", {}),
    ("celery.chord", {"header": [CALL], "body": CALL}),
    ("celery.chord_unlock", {"group_id": "g", "callback": CALL}),
    ("celery.chunks", {"task": CALL, "it": [[]], "n": 1}),
    ("celery.group", {"tasks": [CALL], "result": [], "group_id": "g", "partial_args": []}),
    ("celery.map", {"task": CALL, "it": [[]]}),
    ("celery.starmap", {"task": CALL, "it": [[]]}),
)
COMMANDS: tuple[tuple[str, dict[str, object]], ...] = (
    ("shutdown", {}),
    ("pool_shrink", {"n": 2}),
    ("pool_restart", {}),
    ("rate_limit", {"task_name": "billing.settle", "rate_limit": "1/h"}),
    ("time_limit", {"task_name": "billing.settle", "hard": 0.001}),
    ("cancel_consumer", {"queue": "billing"}),
    ("add_consumer", {"queue": "theirs"}),
    ("revoke", {"task_id": "known", "terminate": True}),
    ("terminate", {"signal": "KILL", "task_id": "known"}),
    ("disable_events", {}),
)
MALFORMED: tuple[object, ...] = (
    5,
    None,
    "text",
    [],
    {},
    [[], JOBS],
    [[], JOBS, EMBED, 0],
    [5, 5, 5],
    [[], JOBS, 5],
    {"args": 1},
)
HEADERS: tuple[dict[str, object], ...] = (
    {},
    {"id": "a", "eta": "soon"},
    {"id": "b", "eta": 5},
    {"id": "c", "expires": "never"},
)

pytestmark = pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def client(site: Site) -> BillingClient:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    made = BillingClient(site.database_url, site.broker.url)
    made.pre_consume(request_id="held", user_id=1, token_id=1, quota=100)
    return made


def letters(site: Site) -> list[tuple[str, str]]:
    c = billing_dead_letters.c
    with site.engine.connect() as connection:
        return [(row.task, row.reason) for row in connection.execute(select(c.task, c.reason))]


def test_what_is_no_task_of_ours_or_no_json_is_buried_and_never_run(site: Site, client: BillingClient) -> None:
    trap = site.folder / "unpickled"
    arguments = [[], JOBS, EMBED]
    posted = [
        Foreign("billing.settle", body=pickle.dumps(Bomb(trap)), content_type="application/x-python-serialize"),
        Foreign("billing.settle", body=pickle.dumps(arguments), content_type="application/x-python-serialize"),
        Foreign("billing.settle", body=json.dumps(arguments).encode(), content_type="application/x-yaml"),
        Foreign(
            "billing.settle",
            body=f"!!python/object/apply:os.mkdir ['{trap}']".encode(),
            content_type="application/x-yaml",
        ),
        Foreign("billing.settle", body=json.dumps(arguments).encode(), content_type="application/data"),
        *(Foreign("billing.settle", body=json.dumps(each).encode()) for each in MALFORMED),
        *(Foreign("billing.settle", JOBS, headers={"task": "billing.settle", **each}) for each in HEADERS),
        Foreign("tasks.settle.settle", JOBS),
        Foreign("os.system", {"command": f"mkdir {trap}"}),
        *(Foreign(task, kwargs) for task, kwargs in BUILT_IN),
    ]
    for each in posted:
        each.post(site.broker)
    worker = site.worker(sweep_interval=3600)
    until(lambda: len(letters(site)) == len(posted), TIMEOUT_S, f"{len(posted)} dead letters")
    assert {reason for _, reason in letters(site)} == {"invalid_message"}
    assert {task for task, _ in letters(site)} >= {task for task, _ in BUILT_IN}
    assert not trap.exists()
    assert states(site.engine) == {"held": "preconsumed"}
    # What the worker does not need, it does not look at.
    honest = {"jobs": [{"request_id": "held", "actual_quota": 40}]}
    Foreign("billing.settle", honest, headers={"task": "billing.settle", "id": "d", "timelimit": 5}).post(site.broker)
    until(lambda: wallet(site.engine) == WEALTH - 40, TIMEOUT_S, "an honest job applied")
    client.close()
    assert worker.popen.poll() is None


def test_a_command_sent_over_the_broker_changes_nothing(site: Site, client: BillingClient) -> None:
    worker = site.worker(sweep_interval=3600)
    somebody = Celery("somebody", set_as_current=False)
    somebody.conf.update(options(Settings(broker_url=site.broker.url, var_dir=str(site.folder / "somebody"))))
    for command, arguments in COMMANDS:
        somebody.control.broadcast(command, arguments)
    refused = "a command sent over the broker is refused"
    until(lambda: worker.output.count(refused) == len(COMMANDS), TIMEOUT_S, "every command refused")
    somebody.send_task("billing.settle", kwargs={"jobs": [{"request_id": "held", "actual_quota": 40}]}, task_id="known")
    until(lambda: wallet(site.engine) == WEALTH - 40, TIMEOUT_S, "the job applied")
    inspect = somebody.control.inspect(timeout=10)
    inspect.limit = 1
    (answer,) = inspect.stats().values()
    assert answer["pool"]["max-concurrency"] == 2
    (queues,) = inspect.active_queues().values()
    assert [each["name"] for each in queues] == ["billing"]
    (known,) = inspect.registered().values()
    assert all(each.startswith("billing.") for each in known)
    somebody.close()
    client.close()
    assert worker.popen.poll() is None
