"""Deadlines of calls, shared by what is done within them."""

import math
import time

import pytest

from relay_billing import BillingUnavailable
from relay_billing.store import waits
from relay_billing.store.failures import AFRESH, AGAIN
from relay_billing.store.waits import (
    CALL_TIMEOUT_S,
    LEAST_WAIT_S,
    Bounds,
    Waits,
    connect_timeout_s,
    deadline_of_wait,
)
from tests.fixtures.waiting import until

NEAR = pytest.approx


def left(deadline: float) -> float:
    return deadline - time.monotonic()


def test_a_wait_ends_with_its_statement_or_with_its_call_whichever_is_first() -> None:
    assert left(deadline_of_wait(5)) == NEAR(5, abs=0.2)
    with Bounds(Waits(call_s=3), cuts=True).call():
        assert left(deadline_of_wait(5)) == NEAR(3, abs=0.2)
        assert left(deadline_of_wait(1)) == NEAR(1, abs=0.2)
    assert left(deadline_of_wait(5)) == NEAR(5, abs=0.2)


def test_a_call_within_a_call_has_what_that_one_has_left() -> None:
    with Bounds(Waits(call_s=3), cuts=True).call(), Bounds(Waits(call_s=60), cuts=True).call(600):
        assert left(deadline_of_wait(1_000)) == NEAR(3, abs=0.2)


def test_what_takes_long_is_given_as_long_a_call() -> None:
    with Bounds(Waits(), cuts=True).call(600):
        assert left(deadline_of_wait(math.inf)) == NEAR(600, abs=0.2)


def test_a_call_whose_time_is_over_still_rolls_back() -> None:
    with Bounds(Waits(call_s=0.1), cuts=True).call():
        until(lambda: left(waits._DEADLINE.get()) < 0, 5, "over")
        assert left(deadline_of_wait(5)) == NEAR(LEAST_WAIT_S, abs=0.2)
        assert connect_timeout_s(5, 1) == 2


@pytest.mark.parametrize(("configured", "hosts", "call_s", "each"), [(5, 1, 15, 5), (5, 3, 15.5, 5), (5, 3, 10, 3)])
def test_the_hosts_of_a_connection_share_what_the_call_has_left(
    configured: int, hosts: int, call_s: float, each: int
) -> None:
    with Bounds(Waits(call_s=call_s), cuts=True).call():
        assert connect_timeout_s(configured, hosts) == each


def test_after_a_call_that_waited_in_vain_others_are_refused_for_a_moment() -> None:
    bounds = Bounds(Waits(), cuts=True)
    bounds.give_up()
    with pytest.raises(BillingUnavailable, match="nothing was sent"), bounds.call():
        raise AssertionError("it was sent")

    def taken() -> bool:
        try:
            with bounds.call():
                return True
        except BillingUnavailable:
            return False

    until(taken, 5, "taken again")


def test_an_attempt_that_nobody_can_cut_has_to_fit() -> None:
    for cuts, fits in ((True, True), (False, False)):
        bounds = Bounds(Waits(), cuts=cuts)
        with bounds.call():
            assert bounds.room(CALL_TIMEOUT_S, 0.1) is fits
            assert bounds.room(1, 0.1)
            assert not bounds.room(1, CALL_TIMEOUT_S)


def test_what_asks_for_a_fresh_connection_is_tried_again() -> None:
    assert set(AFRESH) < set(AGAIN)
