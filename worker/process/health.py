"""The checks of `health`, run in parallel under one deadline: a check that hangs has failed and delays no other."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from config.settings import Settings
from relay_billing import migrations
from relay_billing.flows.overview import last_sweep
from relay_billing.store.failures import cause_of
from worker.monitoring import queues, snapshot, sweeps
from worker.monitoring.queues import BrokerAway
from worker.process.heartbeat import STALE_AFTER_S, Heartbeat
from worker.process.stage import Stage
from worker.process.state import WorkerState

DEADLINE_S = 0.8
"""Seconds for all checks together."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    good: bool
    detail: str


def _lives(settings: Settings, role: str) -> Check:
    age = Heartbeat(settings.var_dir, role).age_s()
    seen = "never" if age is None else f"{age:.0f} s ago"
    return Check("alive", age is not None and age < STALE_AFTER_S, f"last heartbeat {seen}")


def _consumes(settings: Settings) -> Check:
    here = WorkerState.all_here(settings.var_dir)
    said = ", ".join(f"{each.pid} {each.stage}" for each in here) or "no worker runs here"
    return Check("consuming", any(each.stage is Stage.CONSUMING for each in here), said)


def _database(settings: Settings) -> Check:
    try:
        with snapshot.connected(settings.database_url) as connection:
            has = migrations.current(connection)
    except SQLAlchemyError as error:
        return Check("database", False, cause_of(error))
    needs = migrations.head()
    if has == needs:
        return Check("database", True, f"at migration {has}")
    problem = f"at migration {has or 'none'}, this code needs {needs}: run `python -m worker migrate`"
    return Check("database", False, problem)


def _broker(settings: Settings) -> Check:
    try:
        with queues.asking(settings.broker_url) as ask:
            found = ask()
    except BrokerAway as error:
        return Check("broker", False, str(error))
    return Check("broker", True, ", ".join(f"{each.messages} messages in {each.name}" for each in found))


def _sweeps(settings: Settings) -> Check:
    try:
        with snapshot.connected(settings.database_url) as connection:
            swept_at = connection.execute(last_sweep()).scalar_one_or_none()
    except SQLAlchemyError as error:
        return Check("sweeps", False, cause_of(error))
    now = time.time()
    # A worker that never ran has waited for no sweep yet.
    began_at = Heartbeat(settings.var_dir, "worker").began_at() or now
    problem = sweeps.overdue(settings, swept_at, began_at, now)
    seen = "none yet" if swept_at is None else f"the last one came through {max(0.0, now - swept_at / 1000):.0f} s ago"
    return Check("sweeps", problem is None, problem or seen)


def run(settings: Settings, role: str, *, live_only: bool = False) -> list[Check]:
    """Check everything that `role` (worker or beat) needs; `live_only`: only its heartbeat."""
    if live_only:
        return [_lives(settings, role)]
    slow: dict[str, Callable[[Settings], Check]] = {"broker": _broker, "database": _database}
    if role == "worker":
        slow["sweeps"] = _sweeps
    answers: dict[str, Check] = {}

    def ask(name: str) -> None:
        answers[name] = slow[name](settings)

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in slow]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + DEADLINE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = {name: Check(name, False, f"no answer in {DEADLINE_S} s") for name in slow}
    own = [_lives(settings, role)] + ([_consumes(settings)] if role == "worker" else [])
    return own + [answers.get(name, late[name]) for name in slow]
