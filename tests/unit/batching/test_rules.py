"""When a batch begins, and how many calls it takes: the rule by itself, without a clock."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_billing import Gathering, InvalidRequest
from relay_billing.batching.rules import WORTH_A_LANE, Turn, next_turn

LONG_MS = 1_000
WINDOW_S = LONG_MS / 1000
CASES: dict[str, tuple[dict[str, int], dict[str, Any], Turn]] = {
    "nobody waits": ({}, {"waiting": 0}, Turn(0)),
    "nobody waits, and a batch has ended": ({}, {"waiting": 0, "freed": True}, Turn(0)),
    "a lone call begins immediately": ({}, {"waiting": 1}, Turn(1)),
    "a few together share a batch": ({}, {"waiting": 7}, Turn(7)),
    "beside a batch the first waits for others": ({}, {"waiting": 1, "batches": 1, "calls": 1}, Turn(0, WINDOW_S)),
    "it waits no longer than what is left": ({}, {"waiting": 3, "waited_s": 0.75, "batches": 1}, Turn(0, 0.25)),
    "its window is over": ({}, {"waiting": 3, "waited_s": 1.0, "batches": 1}, Turn(3)),
    "without a window nobody waits": ({"window_ms": 0}, {"waiting": 1, "batches": 1}, Turn(1)),
    "enough have come": ({}, {"waiting": WORTH_A_LANE, "batches": 1}, Turn(WORTH_A_LANE)),
    "a full batch is enough": ({"calls": 2}, {"waiting": 2, "batches": 1}, Turn(2)),
    "a lane is free again, and takes what has come": ({}, {"waiting": 3, "batches": 1, "freed": True}, Turn(3)),
    "a closed gatherer waits for nobody": ({}, {"waiting": 3, "batches": 1, "closed": True}, Turn(3)),
    "threads that were answered together come together": (
        {},
        {"waiting": 1, "last": 8, "returning": 7},
        Turn(0, WINDOW_S),
    ),
    "they have come": ({}, {"waiting": 8, "last": 8, "returning": 0}, Turn(8)),
    "they don't come": ({}, {"waiting": 1, "waited_s": 1.0, "last": 8, "returning": 7}, Turn(1)),
    "a full batch waits for no more of them": ({"calls": 2}, {"waiting": 2, "last": 8, "returning": 6}, Turn(2)),
    "a closed one waits for none of them": (
        {},
        {"waiting": 1, "last": 8, "returning": 7, "closed": True},
        Turn(1),
    ),
    "a half of few waits for the other half": (
        {},
        {"waiting": 4, "last": 4, "returning": 4, "freed": True},
        Turn(0, WINDOW_S),
    ),
    "both halves are there": ({}, {"waiting": 8, "last": 4, "returning": 0}, Turn(8)),
    "the smaller half has not come": ({}, {"waiting": 4, "last": 3, "returning": 2, "freed": True}, Turn(0, WINDOW_S)),
    "many wait for no other half": ({}, {"waiting": 8, "last": 8, "returning": 8, "freed": True}, Turn(8)),
    "nobody returns after one alone": ({}, {"waiting": 2, "last": 1, "returning": 0, "freed": True}, Turn(2)),
    "beside a batch they come together too": (
        {},
        {"waiting": WORTH_A_LANE, "batches": 1, "last": 30, "returning": 22},
        Turn(0, WINDOW_S),
    ),
    "all lanes are taken": ({}, {"waiting": 500, "waited_s": 9.0, "batches": 2}, Turn(0)),
    "all lanes are taken, though closed": ({}, {"waiting": 5, "batches": 2, "closed": True}, Turn(0)),
    "a crowd is split among free lanes": ({}, {"waiting": 64}, Turn(32)),
    "an odd crowd is split too": ({"lanes": 3}, {"waiting": 100}, Turn(34)),
    "a crowd is split into batches that are worth it": ({"lanes": 4}, {"waiting": 17}, Turn(9)),
    "the last free lane has all of the crowd": ({}, {"waiting": 40, "batches": 1}, Turn(40)),
    "a batch takes no more than its calls": ({"lanes": 1}, {"waiting": 500}, Turn(64)),
    "so few calls are carried out alone": ({"alone": 4}, {"waiting": 1, "batches": 3, "calls": 3}, Turn(1)),
    "each of them": ({"alone": 4}, {"waiting": 3, "batches": 1, "calls": 1}, Turn(1)),
    "one more, and they are gathered": ({"alone": 4}, {"waiting": 1, "batches": 4, "calls": 4}, Turn(0)),
    "as soon as a lane is free": ({"alone": 4}, {"waiting": 4, "batches": 1, "calls": 1, "freed": True}, Turn(4)),
    "after a crowd's batch a call is not of a few": (
        {"alone": 4},
        {"waiting": 1, "batches": 1, "calls": 1, "last": 30},
        Turn(0, WINDOW_S),
    ),
    "after one of a few it is": ({"alone": 4}, {"waiting": 1, "batches": 1, "calls": 1, "last": 2}, Turn(1)),
    "a lone call begins immediately after a crowd's batch too": ({"alone": 4}, {"waiting": 1, "last": 30}, Turn(1)),
    "alone counts calls, not batches": ({"alone": 4}, {"waiting": 1, "batches": 1, "calls": 9}, Turn(0, WINDOW_S)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_next_turn_is(case: str) -> None:
    options, state, expected = CASES[case]
    how = Gathering(**{"window_ms": LONG_MS, **options})
    assert next_turn(how, **{"waited_s": 0.0, "batches": 0, "calls": 0, **state}) == expected


@pytest.mark.parametrize("name", ["window_ms", "calls", "waiting", "lanes", "alone"])
def test_a_gathering_out_of_range_is_refused_by_its_field(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Gathering(**{name: -1})
    assert refused.value.field == name


@dataclass
class Shell:
    """What any shell does, with a clock of its own: asks after each event, and does what the rule says."""

    how: Gathering
    now_ms: int = 0
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    """Calls, and when they came."""
    under_way: list[list[int]] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    last: int = 0
    returning: int = 0
    closed: bool = False
    threads: bool = False
    """Whether those that were answered together come again one after the other."""

    @property
    def expected(self) -> int:
        """Calls that a batch may wait for, where nothing is under way."""
        if not self.threads:
            return 0
        few = min(WORTH_A_LANE, len(self.waiting) + self.returning)
        return max(few, self.last if self.last > 1 else 0)

    @property
    def known(self) -> int:
        """Calls under way, and those that come again."""
        return sum(map(len, self.under_way)) + (self.last if self.last > 1 else 0)

    def end(self, number: int) -> None:
        self.last = len(self.under_way.pop(number))
        self.returning = self.last if self.last > 1 else 0
        self.settle_down(freed=True)

    def ask(self, freed: bool = False) -> Turn:
        waited_ms = self.now_ms - self.waiting[0][1] if self.waiting else 0
        calls = sum(map(len, self.under_way))
        return next_turn(
            self.how,
            waiting=len(self.waiting),
            waited_s=waited_ms / 1000,
            batches=len(self.under_way),
            calls=calls,
            last=self.last,
            returning=self.returning if self.threads else None,
            freed=freed,
            closed=self.closed,
        )

    def settle_down(self, freed: bool = False) -> None:
        while (turn := self.ask(freed)).calls:
            free, crowd = self.how.lanes - len(self.under_way), len(self.waiting)
            batch = [self.waiting.popleft()[0] for _ in range(turn.calls)]
            if crowd + self.known > self.how.alone:
                assert free > 0
                assert free == 1 or crowd < 2 * WORTH_A_LANE or len(batch) <= -(-crowd // 2)
            self.under_way.append(batch)
            self.taken += batch
            freed = False
        self.check(turn)

    def check(self, turn: Turn) -> None:
        assert all(len(batch) <= self.how.calls for batch in self.under_way)
        assert len(self.under_way) <= max(self.how.lanes, self.how.alone)
        if self.waiting:
            assert self.under_way or len(self.waiting) < self.expected, "a call waits, and nothing could end its wait"
            assert len(self.waiting) + self.known > self.how.alone
            free = len(self.under_way) < self.how.lanes
            assert (turn.wait_s is not None) == free
            if free:
                assert not self.closed
                assert len(self.waiting) < max(WORTH_A_LANE, self.expected)
                assert self.now_ms - self.waiting[0][1] < self.how.window_ms

    def pass_time(self, ms: int) -> None:
        """The shell wakes when the rule asked to be asked again, and then at the end."""
        end = self.now_ms + ms
        while (turn := self.ask()).wait_s is not None and self.now_ms + round(turn.wait_s * 1000) <= end:
            self.now_ms += max(1, round(turn.wait_s * 1000))
            self.settle_down()
        self.now_ms = max(end, self.now_ms)
        self.settle_down()


EVENTS = st.one_of(
    st.tuples(st.just("come"), st.integers(1, 150)),
    st.tuples(st.just("end"), st.integers(0, 15)),
    st.tuples(st.just("pass"), st.integers(1, 20)),
    st.tuples(st.just("close"), st.just(0)),
)
HOWS = st.builds(
    Gathering,
    window_ms=st.integers(0, 20),
    calls=st.integers(1, 100),
    lanes=st.integers(1, 5),
    alone=st.integers(1, 9),
)


@given(how=HOWS, events=st.lists(EVENTS, max_size=60), threads=st.booleans())
def test_every_call_is_taken_once_in_order_and_in_time_whatever_happens(
    how: Gathering, events: list[tuple[str, int]], threads: bool
) -> None:
    shell, came = Shell(how, threads=threads), 0
    for what, much in events:
        if what == "come":
            shell.waiting += [(came + number, shell.now_ms) for number in range(much)]
            shell.returning = max(0, shell.returning - much)
            came += much
            shell.settle_down()
        elif what == "pass":
            shell.pass_time(much)
        elif what == "close":
            shell.closed = True
            shell.settle_down()
        elif shell.under_way:
            shell.end(much % len(shell.under_way))
    for _ in range(came):
        if shell.under_way:
            shell.end(0)
        else:
            shell.pass_time(how.window_ms)
    assert (shell.taken, list(shell.waiting), shell.under_way) == (list(range(came)), [], [])


@given(how=HOWS)
def test_a_lone_call_begins_immediately(how: Gathering) -> None:
    assert next_turn(how, waiting=1, waited_s=0.0, batches=0, calls=0) == Turn(1)
