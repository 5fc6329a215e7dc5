"""Calls of tasks that come together share a batch, and each has its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from relay_billing import BillingUnavailable, Gathering, SettleJob
from relay_billing.batching import tasks
from relay_billing.batching.tasks import TaskGatherer
from relay_billing.domain.errors import not_safe


class AsyncCarrier:
    """Carries batches out, and remembers them; `gate` holds the first one up."""

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
        carrier = AsyncCarrier()
        gatherer = TaskGatherer(carrier.carry, Gathering(window_ms=1_000), carrier.abandon)
        first = asyncio.create_task(gatherer.call(1))
        while not carrier.batches:
            await asyncio.sleep(0)
        others = [asyncio.create_task(gatherer.call(number)) for number in (2, -3, 4)]
        await asyncio.sleep(0)
        others[2].cancel()
        carrier.gate.set()
        assert (await first, await others[0]) == (2, 4)
        with pytest.raises(ValueError, match="-3"):
            await others[1]
        await gatherer.close()
        assert (carrier.batches, carrier.abandoned) == ([[1], [2, -3, 4]], [4])

    asyncio.run(scenario())


def test_a_crowd_is_split_among_the_lanes_that_are_free() -> None:
    async def scenario() -> None:
        carrier = AsyncCarrier()
        gatherer = TaskGatherer(carrier.carry, Gathering(window_ms=1_000))
        crowd = [asyncio.create_task(gatherer.call(number)) for number in range(64)]
        while len(carrier.batches) < 2:
            await asyncio.sleep(0)
        # The first batch is held up, the second is done; its lane is the only free one, and has all of the next crowd.
        await asyncio.gather(*crowd[32:])
        crowd += [asyncio.create_task(gatherer.call(number)) for number in range(64, 96)]
        await asyncio.gather(*crowd[64:])
        carrier.gate.set()
        await asyncio.gather(*crowd)
        assert [len(batch) for batch in carrier.batches] == [32, 32, 32]

    asyncio.run(scenario())


def test_a_carry_that_fails_fails_every_call_of_its_batch() -> None:
    async def scenario() -> None:
        async def carry(items: Sequence[int]) -> Sequence[int | Exception]:
            raise BillingUnavailable("away")

        gatherer = TaskGatherer(carry, Gathering(waiting=1))
        answers = await asyncio.gather(gatherer.call(1), gatherer.call(2), return_exceptions=True)
        assert [type(answer) for answer in answers] == [BillingUnavailable] * 2

    asyncio.run(scenario())


def test_a_carry_that_answers_too_little_fails_every_call_of_its_batch() -> None:
    async def scenario() -> None:
        async def carry(items: Sequence[int]) -> Sequence[int]:
            return items[1:]

        gatherer = TaskGatherer(carry, Gathering())
        calls = asyncio.gather(gatherer.call(1), gatherer.call(2), return_exceptions=True)
        answers = await asyncio.wait_for(calls, 10)
        assert [type(answer) for answer in answers] == [ValueError] * 2

    asyncio.run(scenario())


def test_the_first_that_waits_begins_when_its_window_is_over() -> None:
    async def scenario() -> None:
        carrier = AsyncCarrier()
        gatherer = TaskGatherer(carrier.carry, Gathering(window_ms=5))
        first = asyncio.create_task(gatherer.call(1))
        while not carrier.batches:
            await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.gather(*map(gatherer.call, (2, 3))), 10) == [4, 6]
        assert carrier.batches == [[1], [2, 3]]
        carrier.gate.set()
        assert await first == 2

    asyncio.run(scenario())


def test_few_calls_are_carried_out_alone_and_more_are_gathered() -> None:
    async def scenario() -> None:
        carrier = AsyncCarrier()
        gatherer = TaskGatherer(carrier.carry, Gathering(window_ms=1_000, alone=3))
        few = [asyncio.create_task(gatherer.call(number)) for number in range(3)]
        assert await asyncio.gather(*few[1:]) == [2, 4]
        more = [asyncio.create_task(gatherer.call(number)) for number in range(3, 9)]
        await asyncio.sleep(0)
        carrier.gate.set()
        assert await asyncio.gather(*few, *more) == [number * 2 for number in range(9)]
        assert carrier.batches == [[0], [1], [2], [3, 4, 5, 6, 7, 8]]

    asyncio.run(scenario())


def test_an_answer_that_can_not_be_given_back_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        carrier = AsyncCarrier()

        async def broken(item: int, answer: int) -> None:
            raise ConnectionError("away")

        gatherer = TaskGatherer(carrier.carry, Gathering(lanes=1), broken)
        first = asyncio.create_task(gatherer.call(1))
        while not carrier.batches:
            await asyncio.sleep(0)
        others = [asyncio.create_task(gatherer.call(number)) for number in (2, 3)]
        await asyncio.sleep(0)
        others[0].cancel()
        carrier.gate.set()
        assert (await asyncio.wait_for(first, 10), await asyncio.wait_for(others[1], 10)) == (2, 6)
        assert await asyncio.wait_for(gatherer.call(4), 10) == 8
        await gatherer.close()

    asyncio.run(scenario())
    assert "could not be given back: 2" in caplog.text


def test_a_lane_that_is_cancelled_fails_its_calls_and_those_that_wait_have_another() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        batches = []

        async def carry(jobs: Sequence[SettleJob]) -> Sequence[bool]:
            batches.append([job.request_id for job in jobs])
            await gate.wait()
            return [True] * len(jobs)

        gatherer = TaskGatherer(carry, Gathering(lanes=1), refused=not_safe)
        first = asyncio.create_task(gatherer.call(SettleJob("r1", 1)))
        while not batches:
            await asyncio.sleep(0)
        second = asyncio.create_task(gatherer.call(SettleJob("r2", 2)))
        await asyncio.sleep(0)
        (lane,) = gatherer._lanes
        lane.cancel()
        with pytest.raises(BillingUnavailable, match="CancelledError") as failed:
            await asyncio.wait_for(first, 10)
        assert failed.value.jobs == (SettleJob("r1", 1),)
        gate.set()
        assert await asyncio.wait_for(second, 10)
        assert batches == [["r1"], ["r2"]]

    asyncio.run(scenario())


def test_a_refused_call_names_its_job() -> None:
    async def scenario() -> None:
        async def carry(jobs: Sequence[SettleJob]) -> Sequence[bool]:
            return [True] * len(jobs)

        gatherer = TaskGatherer(carry, Gathering(waiting=1), refused=not_safe)
        job = SettleJob("r2", 2)
        taken, refused = await asyncio.gather(
            gatherer.call(SettleJob("r1", 1)), gatherer.call(job), return_exceptions=True
        )
        assert taken is True
        assert isinstance(refused, BillingUnavailable)
        assert refused.jobs == (job,)

    asyncio.run(scenario())


def test_closing_waits_for_what_is_called_but_no_longer_than_its_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        carrier = AsyncCarrier()
        gatherer = TaskGatherer(carrier.carry, Gathering(window_ms=1_000))
        first = asyncio.create_task(gatherer.call(1))
        while not carrier.batches:
            await asyncio.sleep(0)
        second = asyncio.create_task(gatherer.call(2))
        await asyncio.sleep(0)
        monkeypatch.setattr(tasks, "CLOSE_TIMEOUT_S", 0.05)
        await gatherer.close()
        assert (second.done(), second.result(), first.done()) == (True, 4, False)
        assert "closed with 1 batches under way, and 0 calls waiting" in caplog.text
        monkeypatch.undo()
        carrier.gate.set()
        await gatherer.close()
        assert (first.done(), await gatherer.call(3)) == (True, 6)

    asyncio.run(scenario())
