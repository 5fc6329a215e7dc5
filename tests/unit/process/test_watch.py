"""By what a worker finds that it gets no messages, and that it then connects anew."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from config.settings import Settings
from worker.monitoring.queues import QueueState
from worker.patches.consumer import LedgerConsumer
from worker.process.state import OwnState
from worker.process.watch import LOOK_EVERY_S, SILENT_SWEEPS, ConsumerWatch, Look, Loss

SWEEP_INTERVAL_S = 10
SILENCE_S = SILENT_SWEEPS * SWEEP_INTERVAL_S


def queue(messages: int = 0, consumers: int | None = 1, name: str = "billing") -> QueueState:
    return QueueState(name, messages, None, consumers)


WELL = Look(connection=0, received=5, idle=True, queues=(queue(),))
GONE = replace(WELL, queues=(queue(consumers=0),))
WAITING = replace(WELL, queues=(queue(messages=3),))
REDIS = replace(WELL, queues=(queue(messages=3, consumers=None),))
WEBHOOKS = queue(consumers=0, name="billing.webhooks")

CASES: dict[str, tuple[Look, Look, tuple[Loss, str] | None]] = {
    "all is well": (WELL, WELL, None),
    "no consumer": (GONE, GONE, (Loss.NO_CONSUMER, "billing")),
    "no consumer, with messages in hand": (
        replace(GONE, idle=False),
        replace(GONE, idle=False, received=6),
        (Loss.NO_CONSUMER, "billing"),
    ),
    "no consumer of the second queue": (
        replace(WELL, queues=(queue(), WEBHOOKS)),
        replace(WELL, queues=(queue(), WEBHOOKS)),
        (Loss.NO_CONSUMER, "billing.webhooks"),
    ),
    "no consumer for a moment": (WELL, GONE, None),
    "a consumer again": (GONE, WELL, None),
    "connected meanwhile": (GONE, replace(GONE, connection=1), None),
    "messages wait": (WAITING, WAITING, (Loss.STARVED, "billing")),
    "messages wait on Redis": (REDIS, REDIS, (Loss.STARVED, "billing")),
    "messages wait for one that works": (WAITING, replace(WAITING, idle=False), None),
    "messages wait for one that worked": (replace(WAITING, idle=False), WAITING, None),
    "messages wait for one that gets some": (WAITING, replace(WAITING, received=6), None),
    "messages wait for a moment": (WELL, WAITING, None),
}


@pytest.fixture
def watch(tmp_path: Path) -> ConsumerWatch:
    settings = Settings(broker_url="redis://127.0.0.1", sweep_interval=SWEEP_INTERVAL_S)
    return ConsumerWatch(settings, cast(LedgerConsumer, SimpleNamespace()), OwnState(str(tmp_path)))


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_found_that_two_looks_have_seen(case: str, watch: ConsumerWatch) -> None:
    first, second, expected = CASES[case]
    assert watch.loss(first, 0) is None
    assert watch.loss(second, LOOK_EVERY_S) == expected


def test_after_a_fault_was_found_two_more_looks_are_needed(watch: ConsumerWatch) -> None:
    found = [watch.loss(GONE, at) is not None for at in range(4)]
    assert found == [False, True, False, True]


def test_an_idle_worker_without_a_message_in_all_that_time_gets_none(watch: ConsumerWatch) -> None:
    assert watch.loss(WELL, 0) is None
    assert watch.loss(WELL, SILENCE_S) is None
    assert watch.loss(WELL, SILENCE_S + 1) == (Loss.SILENT, "billing")
    # The time begins again with the next connection.
    assert watch.loss(replace(WELL, connection=1), SILENCE_S + 2) is None


@pytest.mark.parametrize(
    "then", [replace(WELL, received=6), replace(WELL, idle=False), replace(WELL, connection=1)], ids=str
)
def test_a_worker_that_got_a_message_works_or_has_connected_is_not_silent(then: Look, watch: ConsumerWatch) -> None:
    assert watch.loss(WELL, 0) is None
    assert watch.loss(then, SILENCE_S - 1) is None
    assert watch.loss(then, SILENCE_S + 1) is None
