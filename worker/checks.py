"""What `health` looks at, all at once and bounded in time: what hangs has failed, and holds up nobody."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from config.settings import Settings
from relay_billing import migrations
from worker import health, queues, signs, standing
from worker.queues import BrokerAway
from worker.signs import Stage

DEADLINE_S = 0.8
"""Seconds that all of it may take."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    good: bool
    detail: str


def _lives(settings: Settings, role: str) -> Check:
    age = health.age_s(health.heartbeat_file(settings.var_dir, role))
    seen = "never" if age is None else f"{age:.0f} s ago"
    return Check("alive", age is not None and age < health.STALE_AFTER_S, f"last sign of life {seen}")


def _consumes(settings: Settings) -> Check:
    here = signs.workers(settings.var_dir)
    said = ", ".join(f"{each.pid} {each.stage}" for each in here) or "no worker runs here"
    return Check("consuming", any(each.stage is Stage.CONSUMING for each in here), said)


def _database(settings: Settings) -> Check:
    try:
        with standing.connected(settings.database_url) as connection:
            has = migrations.current(connection)
    except SQLAlchemyError as error:
        return Check("database", False, standing.cause_of(error))
    needs = migrations.head()
    if has == needs:
        return Check("database", True, f"at migration {has}")
    problem = f"at migration {has or 'none'}, this code needs {needs}: run `python -m worker migrate`"
    return Check("database", False, problem)


def _broker(settings: Settings) -> Check:
    try:
        found = queues.look(settings.broker_url)
    except BrokerAway as error:
        return Check("broker", False, str(error))
    return Check("broker", True, ", ".join(f"{each.messages} messages in {each.name}" for each in found))


def run(settings: Settings, role: str, *, live_only: bool = False) -> list[Check]:
    """Look at everything that `role` (worker, beat) needs; `live_only`: only at its sign of life."""
    if live_only:
        return [_lives(settings, role)]
    slow: dict[str, Callable[[Settings], Check]] = {"broker": _broker, "database": _database}
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
