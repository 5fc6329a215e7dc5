"""A process is killed between every two steps of a flow; what it began is then done as after any crash."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete

from relay_billing import Ledger, SettleJob
from relay_billing.schema import metadata
from tests.faults.crashing import DAY_S, POLICY, USE_CASES, killed_at
from tests.fixtures.accounts import START, Clock, given, states, token, used, wallet

WEALTH = 10_000
FEWEST_STEPS, MOST_STEPS = 3, 60
"""On MariaDB, a settle of the general path is a list of loads, a list of writes with their COMMIT, and the end."""


def _nothing(engine: Engine) -> None:
    """The use case begins with no session."""


def _held(engine: Engine) -> None:
    ledger = Ledger(engine, POLICY, Clock())
    ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100, preference="subscription_first")


def _held_many(engine: Engine) -> None:
    USE_CASES["a batch of holds"](engine)


def _intended(engine: Engine) -> None:
    _held(engine)
    Ledger(engine, POLICY, Clock()).intend([SettleJob("r1", 60)])


def _settled(engine: Engine) -> None:
    _held(engine)
    Ledger(engine, POLICY, Clock()).apply([SettleJob("r1", 60)])


# use case: what is there before, then used of the subscription, of the token, and the session's state
CASES: dict[str, tuple[Callable[[Engine], None], int, int, str | None]] = {
    "pre-consume": (_nothing, 100, 100, "preconsumed"),
    "reserve": (_held, 250, 250, "preconsumed"),
    "a batch of holds": (_nothing, 100, 100, "preconsumed"),
    "a batch of jobs": (_held_many, 60, 60, "settled"),
    "settle": (_held, 60, 60, "settled"),
    "refund": (_held, 0, 0, "refunded"),
    "a relay's settle": (_held, 60, 60, "settled"),
    "a relay's refund": (_held, 0, 0, "refunded"),
    "sweep of intents": (_intended, 60, 60, "settled"),
    "expiry": (_held, 0, 0, "expired"),
    "reset": (_held, 0, 100, "preconsumed"),
    "purge": (_settled, 60, 60, None),
}


OF_OTHERS = {"a batch of holds": 30, "a batch of jobs": 10}
"""Taken from the wallet of a neighbour, in the same batch."""


def begin(engine: Engine, before: Callable[[Engine], None]) -> None:
    """The same accounts each time."""
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
    given(
        engine,
        user=[{"id": of, "quota": WEALTH} for of in (1, 2)],
        token=[{"id": of, "user_id": of, "remain_quota": WEALTH} for of in (1, 2)],
        plan=[{"id": 1, "title": "daily", "quota_reset_period": "daily"}],
        subscription=[
            {"id": 1, "user_id": 1, "plan_id": 1, "amount_total": 1_000}
            | {"start_time": START - 5, "end_time": START + 30 * DAY_S}
        ],
    )
    before(engine)


def again(name: str, engine: Engine, folder: Path) -> None:
    """What comes after a crash: the same call once more, then the sweep."""
    url = engine.url.render_as_string(hide_password=False)
    assert not killed_at(url, name, MOST_STEPS * 10, folder)
    if name.startswith("a relay's"):
        Ledger(engine, POLICY, Clock(60)).apply_intents()


def test_every_use_case_has_its_crash_points() -> None:
    assert set(CASES) == set(USE_CASES)


@pytest.mark.parametrize("name", list(CASES))
def test_a_process_killed_at_any_step_leaves_accounts_that_reconcile_and_work_that_can_be_done(
    name: str, engine: Engine, tmp_path: Path
) -> None:
    before, in_use, on_token, state = CASES[name]
    url = engine.url.render_as_string(hide_password=False)
    points = 0
    while points < MOST_STEPS:
        begin(engine, before)
        killed = killed_at(url, name, points, tmp_path)
        assert Ledger(engine).reconcile() == [], f"after a crash at step {points}"
        if not killed:
            break
        points += 1
        again(name, engine, tmp_path)
        assert Ledger(engine).reconcile() == []
        assert (used(engine), WEALTH - token(engine)) == (in_use, on_token), f"step {points}"
        assert states(engine).get("r1") == state, f"step {points}"
        assert wallet(engine) == WEALTH
        assert wallet(engine, 2) == WEALTH - OF_OTHERS.get(name, 0), f"step {points}"
    assert FEWEST_STEPS <= points < MOST_STEPS
