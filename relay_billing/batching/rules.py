"""The rule of gathering: when a batch begins, and how many calls it takes. Pure: `threads` and `tasks` do the rest.

A lone call is a batch immediately. While batches are under way, further calls wait for the next one: until one under
way ends, or enough calls wait to fill a lane of their own, or the first one has waited for `window_ms`.
"""

from dataclasses import dataclass

from relay_billing.domain import checks
from relay_billing.domain.errors import BillingUnavailable

WORTH_A_LANE = 8
"""Calls that begin another batch without waiting for more; calls are split among lanes in batches of at least this."""
CLOSE_TIMEOUT_S = 10.0
"""Seconds for which closing a gatherer waits for the calls under way."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """How calls are gathered. Raises InvalidRequest, naming the field, for a value out of range."""

    window_ms: int = 2
    """Milliseconds a call waits for others while a batch is under way and a lane is free, and of threads, for those
    that were just answered together. A lone call never waits."""
    calls: int = 64
    """Most calls of one batch; more than 64 lengthen the wait of each and gain little."""
    waiting: int = 10_000
    """Most calls that may wait; the next one is refused immediately, rather than late."""
    lanes: int = 2
    """Most batches under way together, one connection each; does not limit holds that run alone (`alone`)."""
    alone: int = 1
    """Up to this many concurrent holds run alone, each on its own connection.
    1: only a lone one does; more pays off for few threads if a lone hold takes one statement. Settles and refunds are
    always gathered, because they share a message."""

    def __post_init__(self) -> None:
        checks.whole("window_ms", self.window_ms, 0, 1_000)
        checks.whole("calls", self.calls, 1, checks.MAX_BATCH)
        checks.whole("waiting", self.waiting, 1, 1_000_000)
        checks.whole("lanes", self.lanes, 1, 16)
        checks.whole("alone", self.alone, 1, 16)

    def refusal(self) -> BillingUnavailable:
        """The error of a call that comes while `waiting` others wait already."""
        return BillingUnavailable(f"{self.waiting} calls wait already: nothing was sent")


@dataclass(frozen=True, slots=True)
class Turn:
    """What the waiting calls do now: some of them begin a batch, or all keep waiting."""

    calls: int
    """Calls of the batch that begins, oldest first; 0: none begins."""
    wait_s: float | None = None
    """Seconds after which to ask again at the latest; None: nothing is due until a call comes or a batch ends."""


def next_turn(
    how: Gathering,
    *,
    waiting: int,
    waited_s: float,
    batches: int,
    calls: int,
    last: int = 0,
    returning: int | None = None,
    freed: bool = False,
    closed: bool = False,
) -> Turn:
    """Whether a batch begins, and of how many calls.

    `waiting` calls wait, the first of them for `waited_s` seconds; `batches` are under way, with `calls` calls in all;
    the last batch that ended had `last` calls. `returning`: so many threads were answered together and have not called
    again; they will, one after the other, so a batch waits for them within the window. None: tasks call again in the
    same turn of the event loop. `freed`: a batch has just ended, so its lane takes the calls that came meanwhile.
    `closed`: no call waits for others to come.
    """
    if not waiting:
        return Turn(0)
    # The callers of the last batch will soon call again: count them too, or the first ones to return would seem few.
    few = waiting + calls + (last if last > 1 else 0) <= how.alone
    if few:
        return Turn(1)
    free = how.lanes - batches
    if free <= 0:
        return Turn(0)
    left_s = how.window_ms / 1000 - waited_s
    expected = 0 if returning is None else _expected(waiting, returning, last)
    # While nothing is under way, a batch needs nobody but the callers that are about to call again.
    enough = expected if freed or not batches else max(WORTH_A_LANE, expected)
    if not closed and waiting < min(enough, how.calls) and left_s > 0:
        return Turn(0, left_s)
    # Many calls are split among the free lanes, so that the database works on one batch while Python decides another.
    lanes = min(free, max(1, waiting // WORTH_A_LANE))
    return Turn(min(how.calls, -(-waiting // lanes)))


def _expected(waiting: int, returning: int, last: int) -> int:
    """How many calls a batch of threads waits for: as many as the last one had, but of a small crowd for all.

    Otherwise a crowd of 8 would stay two halves that never meet, in twice as many batches.
    """
    return max(last if last > 1 else 0, min(WORTH_A_LANE, waiting + returning))
