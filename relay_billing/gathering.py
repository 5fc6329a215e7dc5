"""Gathers calls that come at once into one batch, each caller having its own answer: across threads, and in asyncio.

A call that comes alone is carried out at once, in its own thread or task. While a batch is under way, the calls that
come wait for the next one: until the one under way ends, or enough of them wait, or the first has waited long enough.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from relay_billing.domain import inputs
from relay_billing.domain.errors import BillingUnavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

CLOSE_TIMEOUT_S = 10.0
SPLIT_FROM = 16
"""Waiting calls that are worth two transactions: while the database has one, the next is decided."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """How calls are gathered. Raises InvalidRequest, naming the field, for a value out of range."""

    window_ms: int = 2
    """Milliseconds a call may wait for others while a batch is under way. A lone call never waits."""
    calls: int = 64
    """Calls of one batch; more than 64 lengthen the wait of each and gain little."""
    waiting: int = 10_000
    """Calls that may wait; the next one is refused at once, rather than late."""
    lanes: int = 2
    """Batches under way at once, a connection each."""

    @property
    def full(self) -> int:
        """So many waiting calls don't wait for more: a lane takes its share of them."""
        return max(1, self.calls // self.lanes)

    def share(self, waiting: int, free: int) -> int:
        """How many of the waiting calls a batch takes where so many lanes are free, its own one counted.

        A crowd is split among them, so that all lanes work at once.
        """
        split = -(-waiting // free) if waiting >= SPLIT_FROM else waiting
        return min(self.calls, split)

    def __post_init__(self) -> None:
        inputs.whole("window_ms", self.window_ms, 0, 1_000)
        inputs.whole("calls", self.calls, 1, inputs.MAX_BATCH)
        inputs.whole("waiting", self.waiting, 1, 1_000_000)
        inputs.whole("lanes", self.lanes, 1, 16)


def refusal(waiting: int) -> BillingUnavailable:
    """What a call meets when too many wait already."""
    return BillingUnavailable(f"{waiting} calls wait already: nothing was sent")


class TaskGatherer(Generic[Item, Answer]):
    """Gathers the calls of one event loop. `carry` returns an answer or an exception for each item."""

    def __init__(
        self,
        carry: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        how: Gathering,
        abandoned: Callable[[Item, Answer], Awaitable[None]] | None = None,
    ) -> None:
        self._carry, self._how, self._abandoned = carry, how, abandoned
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._carrying = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for the next batch."""
        return len(self._waiting)

    async def call(self, item: Item) -> Answer:
        """Carry `item` out with whatever else comes now; return its answer, or raise its error."""
        if len(self._waiting) >= self._how.waiting:
            raise refusal(len(self._waiting))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if not self._lanes or len(self._waiting) >= self._how.full:
            self._open_lane()
        elif len(self._waiting) == 1:
            loop.call_later(self._how.window_ms / 1000, self._open_lane)
        return await future

    def _open_lane(self) -> None:
        if self._waiting and len(self._lanes) < self._how.lanes:
            lane = asyncio.get_running_loop().create_task(self._work())
            self._lanes.add(lane)
            # Where it is cancelled before it began.
            lane.add_done_callback(self._lanes.discard)

    async def _work(self) -> None:
        try:
            await self._carry_all()
        finally:
            # At once, not when its callbacks run: a caller that has its answer may call again before that, alone.
            self._lanes.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _carry_all(self) -> None:
        while self._waiting:
            # A lane that has not begun yet is as free as this one.
            share = self._how.share(len(self._waiting), self._how.lanes - self._carrying)
            batch = [self._waiting.popleft() for _ in range(share)]
            if len(self._waiting) >= SPLIT_FROM // 2:
                self._open_lane()
            self._carrying += 1
            try:
                answers = await self._carry([item for item, _ in batch])
            except Exception as error:  # noqa: BLE001, whatever it is, each caller has it
                answers = [error] * len(batch)
            finally:
                self._carrying -= 1
            for (item, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                elif self._abandoned is not None and not isinstance(answer, Exception):
                    await self._abandoned(item, answer)

    async def close(self) -> None:
        """Wait until nothing is under way."""
        while self._lanes:
            await asyncio.wait(self._lanes)


class ThreadGatherer(Generic[Item, Answer]):
    """Gathers the calls of threads; one background thread, made when it is first needed."""

    def __init__(
        self, carry: Callable[[Sequence[Item]], Sequence[Answer | Exception]], how: Gathering, name: str
    ) -> None:
        self._carry, self._how, self._name = carry, how, name
        self.forget()

    @property
    def waiting(self) -> int:
        """Calls that wait for the next batch."""
        return len(self._waiting)

    def forget(self) -> None:
        """Begin anew, in the child of a fork: what waited there waits in the parent."""
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Item, Future[Answer], float]] = deque()
        self._under_way = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def call(self, item: Item) -> Answer:
        """Carry `item` out, alone or with whatever else comes now; return its answer, or raise its error."""
        with self._changed:
            alone = self._under_way == 0 or self._closed
            if alone:
                self._under_way += 1
            else:
                if len(self._waiting) >= self._how.waiting:
                    raise refusal(len(self._waiting))
                future: Future[Answer] = Future()
                self._waiting.append((item, future, time.monotonic()))
                self._wake()
        if not alone:
            return future.result()
        try:
            (answer,) = self._carry([item])
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify()

    def _work(self) -> None:
        while batch := self._next():
            try:
                answers = self._carry([item for item, _, _ in batch])
            except Exception as error:  # noqa: BLE001, whatever it is, each caller has it
                answers = [error] * len(batch)
            for (_, future, _), answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            with self._changed:
                self._under_way -= 1

    def _next(self) -> list[tuple[Item, Future[Answer], float]]:
        """The next batch, once it is due; none when the gatherer was closed and nothing waits."""
        with self._changed:
            while not self._due():
                if self._closed and not self._waiting:
                    return []
                self._changed.wait(self._how.window_ms / 1000 if self._waiting else None)
            self._under_way += 1
            return [self._waiting.popleft() for _ in range(min(self._how.calls, len(self._waiting)))]

    def _due(self) -> bool:
        if not self._waiting:
            return False
        first = self._waiting[0][2]
        old = time.monotonic() - first >= self._how.window_ms / 1000
        return self._under_way == 0 or old or len(self._waiting) >= self._how.calls or self._closed

    def close(self) -> None:
        """Carry out what waits, and end the thread. Later calls are carried out alone."""
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            thread.join(CLOSE_TIMEOUT_S)
