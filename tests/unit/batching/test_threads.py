"""Calls of threads that come together share a batch, and each has its own answer."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from relay_billing import BillingUnavailable, Gathering, SettleJob
from relay_billing.batching import threads
from relay_billing.batching.threads import ThreadGatherer
from relay_billing.domain.errors import not_safe
from tests.fixtures.waiting import until


class Carrier:
    """Carries batches out, and remembers them and their threads; `gate` holds the first one up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.leaders: list[int] = []
        self.gate = threading.Event()

    def carry(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.leaders.append(threading.get_ident())
        self.batches.append(list(items))
        if len(self.batches) == 1:
            assert self.gate.wait(10)
        return [ValueError(item) if item < 0 else item * 2 for item in items]


def test_a_lone_call_is_carried_out_by_its_own_thread() -> None:
    carrier = Carrier()
    carrier.gate.set()
    gatherer = ThreadGatherer(carrier.carry, Gathering())
    before = threading.active_count()
    assert [gatherer.call(number) for number in range(3)] == [0, 2, 4]
    assert (carrier.batches, threading.active_count()) == ([[0], [1], [2]], before)
    assert set(carrier.leaders) == {threading.get_ident()}
    gatherer.close()


def test_calls_that_come_while_one_is_under_way_share_a_batch() -> None:
    carrier = Carrier()
    gatherer = ThreadGatherer(carrier.carry, Gathering(window_ms=1_000, calls=8))
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(gatherer.call, 1)
        until(lambda: len(carrier.batches) == 1, 10, "the first under way")
        others = [pool.submit(gatherer.call, number) for number in (-1, 2, 3, 4)]
        until(lambda: len(gatherer._waiting) == 4, 10, "four that wait")
        carrier.gate.set()
        assert first.result(10) == 2
        assert [other.result(10) for other in others[1:]] == [4, 6, 8]
        with pytest.raises(ValueError, match="-1"):
            others[0].result(10)
    assert [sorted(batch) for batch in carrier.batches] == [[1], [-1, 2, 3, 4]]
    gatherer.close()


@pytest.mark.parametrize("how", [Gathering(window_ms=1_000, calls=2), Gathering(window_ms=1, calls=64)])
def test_a_full_batch_or_an_old_one_does_not_wait_for_the_one_under_way(how: Gathering) -> None:
    carrier = Carrier()
    gatherer = ThreadGatherer(carrier.carry, how)
    with ThreadPoolExecutor(4) as pool:
        pool.submit(gatherer.call, 1)
        until(lambda: len(carrier.batches) == 1, 10, "the first under way")
        assert [call.result(10) for call in [pool.submit(gatherer.call, number) for number in (2, 3)]] == [4, 6]
        carrier.gate.set()
    gatherer.close()


def test_a_call_beyond_what_may_wait_is_refused_immediately() -> None:
    carrier = Carrier()
    gatherer = ThreadGatherer(carrier.carry, Gathering(window_ms=1_000, waiting=1))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(gatherer.call, 1)]
        until(lambda: len(carrier.batches) == 1, 10, "the first under way")
        calls.append(pool.submit(gatherer.call, 2))
        until(lambda: len(gatherer._waiting) == 1, 10, "one that waits")
        with pytest.raises(BillingUnavailable):
            gatherer.call(3)
        carrier.gate.set()
        assert [call.result(10) for call in calls] == [2, 4]
    gatherer.close()


def test_closing_carries_out_what_waits_and_leaves_no_thread() -> None:
    carrier = Carrier()
    before = set(threading.enumerate())
    gatherer = ThreadGatherer(carrier.carry, Gathering(window_ms=1_000))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(gatherer.call, 1)]
        until(lambda: len(carrier.batches) == 1, 10, "the first under way")
        calls.append(pool.submit(gatherer.call, 2))
        until(lambda: len(gatherer._waiting) == 1, 10, "one that waits")
        closing = pool.submit(gatherer.close)
        # It begins immediately, in the lane that is free, and waits for no others.
        assert calls[1].result(10) == 4
        carrier.gate.set()
        closing.result(10)
        assert [call.result(10) for call in calls] == [2, 4]
    assert set(threading.enumerate()) <= before
    assert gatherer.call(5) == 10


class Halls:
    """Carries batches out, each held up until it is let go."""

    def __init__(self) -> None:
        self.entered: list[list[int]] = []
        self.leaders: list[int] = []
        self.inside = self.most = 0
        self.lock = threading.Lock()
        self.let_go = threading.Semaphore(0)

    def carry(self, items: Sequence[int]) -> Sequence[int]:
        with self.lock:
            self.entered.append(list(items))
            self.leaders.append(threading.get_ident())
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.let_go.acquire(timeout=10)
        with self.lock:
            self.inside -= 1
        return [item * 2 for item in items]


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_as_many_batches_are_under_way_as_there_are_lanes(lanes: int) -> None:
    halls = Halls()
    gatherer = ThreadGatherer(halls.carry, Gathering(window_ms=0, lanes=lanes))
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(gatherer.call, number) for number in range(8)]
        until(lambda: halls.inside == lanes and gatherer.waiting == 8 - lanes, 10, f"{lanes} lanes taken, others wait")
        halls.let_go.release(8)
        assert [call.result(10) for call in calls] == [number * 2 for number in range(8)]
    assert halls.most == lanes
    gatherer.close()


def test_so_few_calls_are_carried_out_alone_and_more_are_gathered() -> None:
    halls = Halls()
    gatherer = ThreadGatherer(halls.carry, Gathering(window_ms=1_000, alone=3))
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(gatherer.call, number) for number in range(3)]
        until(lambda: halls.inside == 3, 10, "three alone")
        calls += [pool.submit(gatherer.call, number) for number in range(3, 7)]
        until(lambda: gatherer.waiting == 4, 10, "four that wait")
        halls.let_go.release(3)
        until(lambda: len(halls.entered) == 4, 10, "one batch of the others")
        halls.let_go.release(1)
        assert [call.result(10) for call in calls] == [number * 2 for number in range(7)]
    assert sorted(map(len, halls.entered)) == [1, 1, 1, 4]
    gatherer.close()


def test_nobody_leads_more_than_the_batch_that_his_own_call_is_in() -> None:
    own: dict[int, int] = {}
    led: list[tuple[int, list[int]]] = []

    def carry(items: Sequence[int]) -> Sequence[int]:
        led.append((threading.get_ident(), list(items)))
        return items

    gatherer = ThreadGatherer(carry, Gathering(window_ms=0, calls=4))

    def work(base: int) -> None:
        for number in range(base, base + 100):
            own[number] = threading.get_ident()
            assert gatherer.call(number) == number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(0, 800, 100)))
    assert sorted(number for _, items in led for number in items) == list(range(800))
    assert all(thread in {own[number] for number in items} for thread, items in led)
    gatherer.close()


class Interrupted:
    """Carries batches out; whoever leads the second one is interrupted in it."""

    def __init__(self) -> None:
        self.carrier = Carrier()

    def carry(self, items: Sequence[int]) -> Sequence[int | Exception]:
        answers = self.carrier.carry(items)
        if len(self.carrier.batches) == 2:
            raise KeyboardInterrupt
        return answers


def test_the_others_of_a_leader_who_is_interrupted_have_another_leader() -> None:
    interrupted = Interrupted()
    carrier = interrupted.carrier
    gatherer = ThreadGatherer(interrupted.carry, Gathering(window_ms=1_000))
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(gatherer.call, 1)
        until(lambda: len(carrier.batches) == 1, 10, "the first under way")
        others = {pool.submit(gatherer.call, number): number for number in (2, 3, 4)}
        until(lambda: gatherer.waiting == 3, 10, "three that wait")
        carrier.gate.set()
        assert first.result(10) == 2
        ends = {number: other.exception(10) or other.result(10) for other, number in others.items()}
    (leader,) = [number for number, end in ends.items() if isinstance(end, KeyboardInterrupt)]
    assert {number: end for number, end in ends.items() if number != leader} == {
        number: number * 2 for number in (2, 3, 4) if number != leader
    }
    assert [len(batch) for batch in carrier.batches] == [1, 3, 2]
    gatherer.close()


class Startled(threading.Event):
    """An event whose waiter is interrupted in its wait once it may be."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        assert self.may.wait(10)
        raise KeyboardInterrupt


@pytest.mark.parametrize("promoted", [False, True])
def test_a_waiter_who_is_interrupted_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, promoted: bool) -> None:
    carrier = Carrier()
    gatherer = ThreadGatherer(carrier.carry, Gathering(window_ms=1_000, lanes=1))
    event = Startled()

    class Call(threads._Call[int, int]):
        def fall_asleep(self) -> threading.Event:
            if self.item != 2:
                return super().fall_asleep()
            self.woken = event
            return event

    monkeypatch.setattr(threads, "_Call", Call)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(gatherer.call, 1)
        until(lambda: len(carrier.batches) == 1, 10, "the first under way")
        startled = pool.submit(gatherer.call, 2)
        until(lambda: gatherer.waiting == 1, 10, "one that waits")
        other = pool.submit(gatherer.call, 3)
        until(lambda: gatherer.waiting == 2, 10, "two that wait")
        if promoted:
            carrier.gate.set()
            assert first.result(10) == 2
            until(lambda: gatherer.waiting == 0, 10, "the next batch given to its leader")
            event.may.set()
        else:
            event.may.set()
            until(lambda: gatherer.waiting == 1, 10, "one that waits")
            carrier.gate.set()
        assert isinstance(startled.exception(10), KeyboardInterrupt)
        assert (first.result(10), other.result(10)) == (2, 6)
    assert carrier.batches == [[1], [3]]
    gatherer.close()


def test_a_carry_that_fails_or_answers_too_little_fails_every_call_of_its_batch() -> None:
    def away(items: Sequence[int]) -> Sequence[int]:
        raise BillingUnavailable("away")

    with pytest.raises(BillingUnavailable, match="away"):
        ThreadGatherer(away, Gathering()).call(1)

    def too_little(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    with pytest.raises(ValueError, match="zip"):
        ThreadGatherer(too_little, Gathering()).call(1)


def test_a_call_that_gets_no_answer_is_given_up_and_names_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def carry(jobs: Sequence[SettleJob]) -> Sequence[bool]:
        assert gate.wait(10)
        return [True] * len(jobs)

    monkeypatch.setattr(threads, "ANSWER_TIMEOUT_S", 0.05)
    gatherer = ThreadGatherer(carry, Gathering(lanes=1, waiting=1), not_safe)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(gatherer.call, SettleJob("r1", 1))
        until(lambda: gatherer._batches == 1, 10, "the first under way")
        with pytest.raises(BillingUnavailable, match="no answer came") as refused:
            gatherer.call(SettleJob("r2", 2))
        assert refused.value.jobs == (SettleJob("r2", 2),)
        assert gatherer.waiting == 0
        gate.set()
        assert first.result(10)


def test_closing_waits_no_longer_than_its_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    carrier = Carrier()
    monkeypatch.setattr(threads, "CLOSE_TIMEOUT_S", 0.05)
    gatherer = ThreadGatherer(carrier.carry, Gathering())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(gatherer.call, 1)
        until(lambda: len(carrier.batches) == 1, 10, "the first under way")
        gatherer.close()
        assert "closed with 1 batches under way, and 0 calls waiting" in caplog.text
        carrier.gate.set()
        assert first.result(10) == 2


def test_the_child_of_a_fork_begins_anew_whatever_was_under_way() -> None:
    carrier = Carrier()
    gatherer = ThreadGatherer(carrier.carry, Gathering(window_ms=1_000, lanes=1))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(gatherer.call, 1)]
        until(lambda: len(carrier.batches) == 1, 10, "the first under way")
        calls.append(pool.submit(gatherer.call, 2))
        until(lambda: gatherer.waiting == 1, 10, "one that waits")
        with gatherer._lock:
            child = os.fork()
            if child == 0:
                gatherer.forget()
                os._exit(gatherer.call(3) + gatherer.waiting)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
        carrier.gate.set()
        assert [call.result(10) for call in calls] == [2, 4]
    gatherer.close()
