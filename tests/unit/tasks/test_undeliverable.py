"""What Celery would drop is kept beside the worker's loop, which never waits for it."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from kombu import Message

from relay_billing import BillingUnavailable
from relay_billing.domain.dead_letters import Letter
from tasks import undeliverable
from tasks.undeliverable import Ending, Undeliverable
from tests.fixtures.waiting import until

TIMEOUT_S = 10.0


@dataclass
class Keeper:
    """Takes dead letters once `open` is set; refuses them while `away`."""

    open: threading.Event = field(default_factory=threading.Event)
    away: bool = False
    letters: list[Letter] = field(default_factory=list)

    def keep(self, letter: Letter) -> None:
        assert self.open.wait(TIMEOUT_S)
        if self.away:
            raise BillingUnavailable("no answer")
        self.letters.append(letter)


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    made = Keeper()
    monkeypatch.setattr(undeliverable, "_keep", made.keep)
    monkeypatch.setattr(undeliverable, "PAUSE_S", 0.01)
    yield made
    made.open.set()


def posted(box: Undeliverable, done: list[str], name: str = "m") -> None:
    message = Message(body=b"\xff", headers={"task": "billing.nonsense"})
    ending = Ending(lambda: done.append(f"{name} kept"), lambda: done.append(f"{name} back"))
    box.keep("billing.nonsense", message, "no task is called that", ending)


def test_a_message_is_acknowledged_once_it_is_kept_and_nobody_waits_for_that(keeper: Keeper) -> None:
    done: list[str] = []
    box = Undeliverable()
    posted(box, done)
    assert done == []
    keeper.open.set()
    until(lambda: done == ["m kept"], TIMEOUT_S, "acknowledged")
    assert [letter.task for letter in keeper.letters] == ["billing.nonsense"]
    assert "xff" in str(keeper.letters[0].job)


def test_a_message_goes_back_while_the_database_is_away_and_the_next_one_is_kept(keeper: Keeper) -> None:
    done: list[str] = []
    box = Undeliverable()
    keeper.away = True
    keeper.open.set()
    posted(box, done)
    until(lambda: done == ["m back"], TIMEOUT_S, "given back")
    keeper.away = False
    posted(box, done)
    until(lambda: done == ["m back", "m kept"], TIMEOUT_S, "kept")


def test_a_message_that_nobody_foresaw_ends_neither_the_thread_nor_itself(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    box = Undeliverable()

    def broken(letter: Letter) -> None:
        raise ValueError(letter)

    monkeypatch.setattr(undeliverable, "_keep", broken)
    posted(box, done)
    until(lambda: done == ["m back"], TIMEOUT_S, "given back")
    keeper.open.set()
    monkeypatch.setattr(undeliverable, "_keep", keeper.keep)
    posted(box, done)
    until(lambda: done == ["m back", "m kept"], TIMEOUT_S, "kept")


def test_more_than_may_wait_go_back_immediately(keeper: Keeper) -> None:
    done: list[str] = []
    box = Undeliverable()
    box._waiting = queue.Queue(1)
    posted(box, done, "first")
    until(box._waiting.empty, TIMEOUT_S, "in hand")
    posted(box, done, "second")
    posted(box, done, "third")
    assert done == ["third back"]
    keeper.open.set()
    until(lambda: done == ["third back", "first kept", "second kept"], TIMEOUT_S, "the others kept")
