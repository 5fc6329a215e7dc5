"""Gathers the calls of one event loop into batches. Each lane is a task that runs one batch after the other."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

from relay_billing.batching.rules import CLOSE_TIMEOUT_S, Gathering, Turn, next_turn
from relay_billing.domain.errors import BillingUnavailable, UpdateDataError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

log = logging.getLogger("relay_billing")


class TaskGatherer(Generic[Item, Answer]):
    """Gathers the calls of one event loop. `carry` returns an answer or an exception for each item.

    A lane runs batches for as long as calls wait. A call whose caller is cancelled is carried out all the same;
    `abandoned` is called with its answer (unset: the answer is dropped).
    """

    def __init__(
        self,
        carry: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        how: Gathering,
        abandoned: Callable[[Item, Answer], Awaitable[None]] | None = None,
        refused: Callable[[Item, BillingUnavailable], BillingUnavailable] | None = None,
    ) -> None:
        """`refused` adds the item to the error of a refused or interrupted call; unset: the error says only why."""
        self._carry, self._how, self._abandoned, self._refused = carry, how, abandoned, refused
        self._waiting: deque[tuple[Item, asyncio.Future[Answer], float]] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._batches = self._calls = self._last = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Calls that wait for the next batch."""
        return len(self._waiting)

    async def call(self, item: Item) -> Answer:
        """Carry `item` out in a batch with concurrent calls; return its answer, or raise its error.

        Raises BillingUnavailable if too many calls wait already.
        """
        if len(self._waiting) >= self._how.waiting:
            raise self._refusal(item, self._how.refusal())
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future, loop.time()))
        self._open_lanes()
        return await future

    def _refusal(self, item: Item, error: BillingUnavailable) -> BillingUnavailable:
        return error if self._refused is None else self._refused(item, error)

    def _turn(self, batches: int, *, freed: bool = False) -> Turn:
        waited_s = asyncio.get_running_loop().time() - self._waiting[0][2] if self._waiting else 0.0
        return next_turn(
            self._how,
            waiting=len(self._waiting),
            waited_s=waited_s,
            batches=batches,
            calls=self._calls,
            last=self._last,
            freed=freed,
            closed=self._closed,
        )

    def _open_lanes(self) -> None:
        """Open a lane if one more is due. A lane that has not begun yet counts as a batch under way."""
        turn = self._turn(len(self._lanes))
        loop = asyncio.get_running_loop()
        if turn.calls:
            lane = loop.create_task(self._work())
            self._lanes.add(lane)
            # If the lane is cancelled, perhaps before it began, the calls that still wait get another one.
            lane.add_done_callback(self._lane_ended)
        elif turn.wait_s is not None and self._timer is None:
            self._timer = loop.call_later(turn.wait_s, self._window_over)

    def _lane_ended(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        if any(not future.done() for _, future, _ in self._waiting):
            self._open_lanes()

    def _window_over(self) -> None:
        self._timer = None
        self._open_lanes()

    async def _work(self) -> None:
        try:
            # Asks only now how many calls to take: all calls made in the same turn of the event loop wait by now.
            while (turn := self._turn(self._batches, freed=True)).calls:
                await self._carry_out([self._waiting.popleft() for _ in range(turn.calls)])
        finally:
            # Not in the done callback: an answered caller may call again before that, and must not wait for this lane.
            self._lanes.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _carry_out(self, batch: list[tuple[Item, asyncio.Future[Answer], float]]) -> None:
        self._batches += 1
        self._calls += len(batch)
        self._open_lanes()
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._carry([item for item, _, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        except UpdateDataError as error:
            # One item can't be written; the others can.
            answered = (
                [(each, error) for each in batch] if len(batch) == 1 else [await self._single(each) for each in batch]
            )
        except Exception as error:  # noqa: BLE001, whatever it is, each caller has it
            answered = [(each, error) for each in batch]
        except BaseException as error:
            self._interrupt(batch, error)
            raise
        finally:
            self._batches -= 1
            self._calls -= len(batch)
            self._last = len(batch)
        left = []
        for (item, future, _), answer in answered:
            if future.done():
                left.append((item, answer))
            elif isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        for item, answer in left:
            if self._abandoned is not None and not isinstance(answer, Exception):
                await self._abandon(item, answer)

    async def _single(
        self, call: tuple[Item, asyncio.Future[Answer], float]
    ) -> tuple[tuple[Item, asyncio.Future[Answer], float], Answer | Exception]:
        try:
            (answer,) = await self._carry([call[0]])
        except Exception as error:  # noqa: BLE001, whatever it is, its caller has it
            return call, error
        return call, answer

    async def _abandon(self, item: Item, answer: Answer) -> None:
        assert self._abandoned is not None
        try:
            await self._abandoned(item, answer)
        except Exception:
            # No caller waits for this answer, but others wait for this lane.
            log.exception("the answer to a cancelled call could not be given back: %r", item)

    def _interrupt(self, batch: list[tuple[Item, asyncio.Future[Answer], float]], error: BaseException) -> None:
        """The lane was cancelled, or the process ends: it is unknown whether the batch was carried out."""
        for item, future, _ in batch:
            if not future.done():
                why = BillingUnavailable(f"its batch was interrupted by {type(error).__name__}")
                future.set_exception(self._refusal(item, why))

    async def close(self) -> None:
        """Wait until all calls are carried out, for at most 10 s. Later calls still work, but don't wait for others."""
        self._closed = True
        loop = asyncio.get_running_loop()
        end = loop.time() + CLOSE_TIMEOUT_S
        self._open_lanes()
        while self._lanes and (left_s := end - loop.time()) > 0:
            await asyncio.wait(self._lanes, timeout=left_s)
        if self._lanes:
            log.warning("closed with %d batches under way, and %d calls waiting", self._batches, self.waiting)
