"""Calls that come at once share a batch, and each has its own answer."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from relay_billing import BillingUnavailable, InvalidRequest
from relay_billing.gathering import Gathering, TaskGatherer, ThreadGatherer
from tests.fixtures.waiting import until


class Books:
    """Carries batches out, and remembers them; `gate` holds the first one up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()

    def carry(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        if len(self.batches) == 1:
            assert self.gate.wait(10)
        return [ValueError(item) if item < 0 else item * 2 for item in items]


def test_a_lone_call_is_carried_out_by_its_own_thread() -> None:
    books = Books()
    books.gate.set()
    gatherer = ThreadGatherer(books.carry, Gathering(), "test")
    before = threading.active_count()
    assert [gatherer.call(number) for number in range(3)] == [0, 2, 4]
    assert (books.batches, threading.active_count()) == ([[0], [1], [2]], before)
    gatherer.close()


def test_calls_that_come_while_one_is_under_way_share_a_batch() -> None:
    books = Books()
    gatherer = ThreadGatherer(books.carry, Gathering(window_ms=1_000, calls=8), "test")
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(gatherer.call, 1)
        until(lambda: len(books.batches) == 1, 10, "the first under way")
        others = [pool.submit(gatherer.call, number) for number in (-1, 2, 3, 4)]
        until(lambda: len(gatherer._waiting) == 4, 10, "four that wait")
        books.gate.set()
        assert first.result(10) == 2
        assert [other.result(10) for other in others[1:]] == [4, 6, 8]
        with pytest.raises(ValueError, match="-1"):
            others[0].result(10)
    assert [sorted(batch) for batch in books.batches] == [[1], [-1, 2, 3, 4]]
    gatherer.close()


@pytest.mark.parametrize("how", [Gathering(window_ms=1_000, calls=2), Gathering(window_ms=1, calls=64)])
def test_a_full_batch_or_an_old_one_does_not_wait_for_the_one_under_way(how: Gathering) -> None:
    books = Books()
    gatherer = ThreadGatherer(books.carry, how, "test")
    with ThreadPoolExecutor(4) as pool:
        pool.submit(gatherer.call, 1)
        until(lambda: len(books.batches) == 1, 10, "the first under way")
        assert [call.result(10) for call in [pool.submit(gatherer.call, number) for number in (2, 3)]] == [4, 6]
        books.gate.set()
    gatherer.close()


def test_a_call_beyond_what_may_wait_is_refused_at_once() -> None:
    books = Books()
    gatherer = ThreadGatherer(books.carry, Gathering(window_ms=1_000, waiting=1), "test")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(gatherer.call, 1)]
        until(lambda: len(books.batches) == 1, 10, "the first under way")
        calls.append(pool.submit(gatherer.call, 2))
        until(lambda: len(gatherer._waiting) == 1, 10, "one that waits")
        with pytest.raises(BillingUnavailable):
            gatherer.call(3)
        books.gate.set()
        assert [call.result(10) for call in calls] == [2, 4]
    gatherer.close()


def test_closing_carries_out_what_waits_and_ends_the_thread() -> None:
    books = Books()
    gatherer = ThreadGatherer(books.carry, Gathering(window_ms=1_000), "gatherer under test")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(gatherer.call, 1)]
        until(lambda: len(books.batches) == 1, 10, "the first under way")
        calls.append(pool.submit(gatherer.call, 2))
        until(lambda: len(gatherer._waiting) == 1, 10, "one that waits")
        books.gate.set()
        gatherer.close()
        assert [call.result(10) for call in calls] == [2, 4]
    assert "gatherer under test" not in [thread.name for thread in threading.enumerate()]
    assert gatherer.call(5) == 10


class AsyncBooks:
    """As Books, for tasks."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.abandoned: list[int] = []
        self.gate = asyncio.Event()

    async def carry(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        if len(self.batches) == 1:
            await self.gate.wait()
        return [ValueError(item) if item < 0 else item * 2 for item in items]

    async def abandon(self, item: int, answer: int) -> None:
        self.abandoned.append(item)


def test_tasks_share_batches_and_an_answer_that_nobody_waits_for_is_given_back() -> None:
    async def scenario() -> None:
        books = AsyncBooks()
        gatherer = TaskGatherer(books.carry, Gathering(window_ms=1_000), books.abandon)
        first = asyncio.create_task(gatherer.call(1))
        while not books.batches:
            await asyncio.sleep(0)
        others = [asyncio.create_task(gatherer.call(number)) for number in (2, -3, 4)]
        await asyncio.sleep(0)
        others[2].cancel()
        books.gate.set()
        assert (await first, await others[0]) == (2, 4)
        with pytest.raises(ValueError, match="-3"):
            await others[1]
        await gatherer.close()
        assert (books.batches, books.abandoned) == ([[1], [2, -3, 4]], [4])

    asyncio.run(scenario())


def test_a_crowd_is_split_among_the_lanes_that_are_free() -> None:
    async def scenario() -> None:
        books = AsyncBooks()
        gatherer = TaskGatherer(books.carry, Gathering(window_ms=1_000))
        crowd = [asyncio.create_task(gatherer.call(number)) for number in range(64)]
        while len(books.batches) < 2:
            await asyncio.sleep(0)
        # The first batch is held up, the second is done; its lane is the only free one, and has all of the next crowd.
        await asyncio.gather(*crowd[32:])
        crowd += [asyncio.create_task(gatherer.call(number)) for number in range(64, 96)]
        await asyncio.gather(*crowd[64:])
        books.gate.set()
        await asyncio.gather(*crowd)
        assert [len(batch) for batch in books.batches] == [32, 32, 32]

    asyncio.run(scenario())


def test_a_carry_that_fails_fails_every_call_of_its_batch() -> None:
    async def scenario() -> None:
        async def carry(items: Sequence[int]) -> Sequence[int | Exception]:
            raise BillingUnavailable("away")

        gatherer = TaskGatherer(carry, Gathering(waiting=1))
        answers = await asyncio.gather(gatherer.call(1), gatherer.call(2), return_exceptions=True)
        assert [type(answer) for answer in answers] == [BillingUnavailable] * 2

    asyncio.run(scenario())


@pytest.mark.parametrize("field", ["window_ms", "calls", "waiting", "lanes"])
def test_a_gathering_out_of_range_is_refused_by_its_field(field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Gathering(**{field: -1})
    assert refused.value.field == field
