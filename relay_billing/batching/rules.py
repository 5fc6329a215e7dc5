"""The rule of gathering: when a batch begins, and how many calls it takes. No clock, no I/O; the shells ask it.

A call that comes alone is a batch immediately. While batches are under way, the calls that come wait for the next one:
until one that is under way ends, or enough of them wait for a lane of their own, or the first has waited long enough.
"""

from dataclasses import dataclass

from relay_billing.domain import checks
from relay_billing.domain.errors import BillingUnavailable

WORTH_A_LANE = 8
"""Calls that begin a batch beside one under way without waiting for more; a crowd is split no further than this."""
CLOSE_TIMEOUT_S = 10.0
"""Seconds for which closing a gatherer waits for what is under way."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """How calls are gathered. Raises InvalidRequest, naming the field, for a value out of range."""

    window_ms: int = 2
    """Milliseconds a call waits for others while a batch is under way and a lane is free. A lone call never waits."""
    calls: int = 64
    """Calls of one batch; more than 64 lengthen the wait of each and gain little."""
    waiting: int = 10_000
    """Calls that may wait; the next one is refused immediately, rather than late."""
    lanes: int = 2
    """Batches under way together, a connection each; those of `alone` apart."""
    alone: int = 1
    """While there are no more holds than this in all, each is carried out alone, on a connection of its own.
    1: only a lone one is; more pay for a few threads, where a hold alone takes one statement. Settles and refunds are
    gathered whatever it is, for they share a message."""

    def __post_init__(self) -> None:
        checks.whole("window_ms", self.window_ms, 0, 1_000)
        checks.whole("calls", self.calls, 1, checks.MAX_BATCH)
        checks.whole("waiting", self.waiting, 1, 1_000_000)
        checks.whole("lanes", self.lanes, 1, 16)
        checks.whole("alone", self.alone, 1, 16)

    def refusal(self) -> BillingUnavailable:
        """What a call meets when `waiting` others wait already."""
        return BillingUnavailable(f"{self.waiting} calls wait already: nothing was sent")


@dataclass(frozen=True, slots=True)
class Turn:
    """What the calls that wait do now: so many of them begin a batch, or all wait on."""

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
    freed: bool = False,
    closed: bool = False,
) -> Turn:
    """Whether a batch begins, and of how many calls.

    `waiting` calls wait, the first of them for `waited_s` seconds; `batches` are under way, with `calls` in all; the
    last that ended had `last`. `freed`: it has just ended, and its lane takes what has come meanwhile. `closed`: nobody
    waits for more to come.
    """
    if not waiting:
        return Turn(0)
    # The callers of a batch that has ended come again: after a crowd's, the first of them are not few.
    few = waiting + calls + (last if last > 1 else 0) <= how.alone
    if few:
        return Turn(1)
    free = how.lanes - batches
    if free <= 0:
        return Turn(0)
    left_s = how.window_ms / 1000 - waited_s
    begins = freed or closed or not batches or waiting >= min(WORTH_A_LANE, how.calls)
    if not begins and left_s > 0:
        return Turn(0, left_s)
    # A crowd is split among the lanes that are free, so that the database has one batch while another is decided.
    lanes = min(free, max(1, waiting // WORTH_A_LANE))
    return Turn(min(how.calls, -(-waiting // lanes)))
