"""Gathers the calls of threads into batches. It has no thread itself: one caller of a batch carries it out for all."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

from relay_billing.batching.rules import CLOSE_TIMEOUT_S, Gathering, Turn, next_turn
from relay_billing.domain.errors import BillingUnavailable, UpdateDataError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

log = logging.getLogger("relay_billing")

ANSWER_TIMEOUT_S = 60.0
"""Seconds after which a call gives up waiting for a lane, or for its leader. The database's time-outs are shorter."""


class _Call(Generic[Item, Answer]):
    """One call: it waits, its own thread or another's carries it out in a batch, then it is answered."""

    __slots__ = ("answer", "answered", "batch", "came", "item", "watches", "woken")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.came = time.monotonic()
        self.batch: list[_Call[Item, Answer]] | None = None
        """The batch that this call leads: its thread carries it out."""
        self.watches = False
        """Whether its thread wakes by itself when the window is over; only the first waiting call needs to."""
        self.answered = False
        self.answer: Answer | Exception | None = None
        self.woken: threading.Event | None = None
        """What its thread sleeps on; None: it has not had to wait, as a lone call never has."""

    def fall_asleep(self) -> threading.Event:
        """What its thread sleeps on from now on. The caller holds the lock, so that whoever wakes it finds it."""
        self.woken = threading.Event()
        return self.woken

    def wake(self) -> None:
        if self.woken is not None:
            self.woken.set()

    def give(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self.answered = True
        self.wake()


class ThreadGatherer(Generic[Item, Answer]):
    """Gathers the calls of threads. `carry` returns an answer or an exception for each item.

    A batch is carried out in the thread of one of its own callers, its leader. When it ends, the first waiting call
    leads the next one. So no thread works for others for longer than one batch, and none runs while nobody calls.
    `carry` may get an item twice: if a leader is interrupted, the other items of its batch get another leader.
    """

    def __init__(
        self,
        carry: Callable[[Sequence[Item]], Sequence[Answer | Exception]],
        how: Gathering,
        refused: Callable[[Item, BillingUnavailable], BillingUnavailable] | None = None,
    ) -> None:
        """`refused` adds the item to the error of a refused or timed-out call; unset: the error says only why."""
        self._carry, self._how, self._refused = carry, how, refused
        self.forget()

    def forget(self) -> None:
        """Begin anew, in the child of a fork: calls that waited at the fork belong to the parent."""
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._waiting: deque[_Call[Item, Answer]] = deque()
        self._batches = self._calls = self._last = self._returning = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Calls that wait for the next batch."""
        return len(self._waiting)

    def call(self, item: Item) -> Answer:
        """Carry `item` out, alone or in a batch with concurrent calls; return its answer, or raise its error.

        Raises BillingUnavailable if too many calls wait already, or no answer comes in a minute.
        """
        mine: _Call[Item, Answer] = _Call(item)
        try:
            self._wait(mine)
            if mine.batch is not None:
                self._lead(mine, mine.batch)
        except BaseException:
            self._leave(mine)
            raise
        if isinstance(mine.answer, Exception):
            raise mine.answer
        return cast("Answer", mine.answer)

    def _wait(self, mine: _Call[Item, Answer]) -> None:
        """Wait until the call is answered, or has to lead a batch."""
        with self._lock:
            if len(self._waiting) >= self._how.waiting:
                raise self._refusal(mine, self._how.refusal())
            self._waiting.append(mine)
            self._returning = max(0, self._returning - 1)
            pause_s = self._begin(mine)
            if mine.batch is not None:
                return
            woken = mine.fall_asleep()
        give_up = mine.came + ANSWER_TIMEOUT_S
        while mine.batch is None and not mine.answered:
            if time.monotonic() >= give_up:
                raise self._refusal(mine, BillingUnavailable(f"no answer came in {ANSWER_TIMEOUT_S:.0f} s"))
            woken.wait(ANSWER_TIMEOUT_S if pause_s is None else pause_s)
            # Cleared before the next check, so that anything set after the check wakes the thread again.
            woken.clear()
            if not mine.answered:
                with self._lock:
                    pause_s = self._begin(mine)

    def _refusal(self, mine: _Call[Item, Answer], error: BillingUnavailable) -> BillingUnavailable:
        return error if self._refused is None else self._refused(mine.item, error)

    def _begin(self, mine: _Call[Item, Answer] | None = None, *, freed: bool = False) -> float | None:
        """Begin due batches; return the seconds after which the thread of `mine` must ask again; None: it need not.

        The caller holds the lock.
        """
        while self._waiting:
            turn = self._turn(freed)
            if not turn.calls:
                return self._watched(turn, mine)
            freed = False
            batch = [self._waiting.popleft() for _ in range(turn.calls)]
            self._batches += 1
            self._calls += len(batch)
            # The thread that runs now leads, which saves a switch; else the call that waited longest.
            leader = mine if mine is not None and mine in batch else batch[0]
            leader.batch = batch
            leader.wake()
        return None

    def _turn(self, freed: bool = False) -> Turn:
        return next_turn(
            self._how,
            waiting=len(self._waiting),
            waited_s=time.monotonic() - self._waiting[0].came,
            batches=self._batches,
            calls=self._calls,
            last=self._last,
            returning=self._returning,
            freed=freed,
            closed=self._closed,
        )

    def _watched(self, turn: Turn, mine: _Call[Item, Answer] | None) -> float | None:
        first = self._waiting[0]
        if first is mine:
            first.watches = turn.wait_s is not None
            return turn.wait_s
        if turn.wait_s is not None and not first.watches:
            first.watches = True
            first.wake()
        return None

    def _lead(self, mine: _Call[Item, Answer], batch: list[_Call[Item, Answer]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = self._carry([each.item for each in batch])
            answered = list(zip(batch, answers, strict=True))
        except UpdateDataError as error:
            # One item can't be written; the others can.
            answered = [(each, error) for each in batch] if len(batch) == 1 else [self._single(each) for each in batch]
        except Exception as error:  # noqa: BLE001, whatever it is, each caller has it
            answered = [(each, error) for each in batch]
        for each, answer in answered:
            each.give(answer)
        self._end(mine)

    def _single(self, call: _Call[Item, Answer]) -> tuple[_Call[Item, Answer], Answer | Exception]:
        try:
            (answer,) = self._carry([call.item])
        except Exception as error:  # noqa: BLE001, whatever it is, its caller has it
            return call, error
        return call, answer

    def _end(self, leader: _Call[Item, Answer]) -> None:
        """End a batch, unless it has ended already, and give its lane to the next one."""
        with self._lock:
            batch, leader.batch = leader.batch, None
            if batch is not None:
                self._batches -= 1
                self._calls -= len(batch)
                self._last = len(batch)
                self._returning = len(batch) if len(batch) > 1 else 0
                self._begin(freed=True)
                self._ended.notify_all()

    def _leave(self, mine: _Call[Item, Answer]) -> None:
        """Remove a call that was refused or interrupted; other calls of a batch that it leads wait again."""
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                self._begin()
                self._ended.notify_all()
            elif mine.batch is not None:
                others = [each for each in mine.batch if each is not mine and not each.answered]
                self._waiting.extendleft(reversed(others))
                self._end(mine)

    def close(self) -> None:
        """Wait until all calls are carried out, for at most 10 s. Later calls still work, but don't wait for others."""
        with self._lock:
            self._closed = True
            self._begin()
            if not self._ended.wait_for(lambda: not (self._waiting or self._batches), CLOSE_TIMEOUT_S):
                log.warning("closed with %d batches under way, and %d calls waiting", self._batches, self.waiting)
