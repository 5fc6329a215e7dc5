"""Runs one use case in a process of its own, and kills it at a step."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
import pymysql
from sqlalchemy import Engine, event

from relay_billing import BillingClient, Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.store.drivers import engine_of
from relay_billing.store.libpq import Prepared, Result, Statement, Waiting
from tests.fixtures.accounts import Clock

DAY_S = 86_400
POLICY = Policy(trust_quota=0, intent_grace=0)
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["tests.faults.crashing", "alembic", "psycopg", "pymysql", "kombu.transport.filesystem"]
)
TIMEOUT_S = 30


def _ledger(engine: Engine, at: float = 0) -> Ledger:
    return Ledger(engine, POLICY, Clock(at))


def _with_client(engine: Engine, call: Callable[[BillingClient], None]) -> None:
    url = engine.url.render_as_string(hide_password=False)
    client = BillingClient(url, f"filesystem://{os.environ['CRASH_FOLDER']}", POLICY)
    client._engine, client._terms = engine, replace(client._terms, clock=Clock())
    call(client)
    client.close()


def _hold(engine: Engine) -> None:
    _ledger(engine).pre_consume(request_id="r1", user_id=1, token_id=1, quota=100, preference="subscription_first")


def _hold_many(engine: Engine) -> None:
    """What one statement takes, then what the general path decides: the subscription's."""
    asked = [
        PreConsume("r1", 1, 1, 100),
        *(PreConsume(f"w{of}", 2, 2, 10, preference="wallet_only") for of in range(3)),
    ]
    _ledger(engine).pre_consume_many(asked)


def _apply_many(engine: Engine) -> None:
    _ledger(engine).apply([SettleJob("w0", 4), RefundJob("w1"), SettleJob("w2", 6), SettleJob("r1", 60)])


USE_CASES: dict[str, Callable[[Engine], object]] = {
    "pre-consume": _hold,
    "reserve": lambda engine: _ledger(engine).reserve("r1", 250),
    "a batch of holds": _hold_many,
    "a batch of jobs": _apply_many,
    "settle": lambda engine: _ledger(engine).apply([SettleJob("r1", 60)]),
    "refund": lambda engine: _ledger(engine).apply([RefundJob("r1")]),
    "a relay's settle": lambda engine: _with_client(engine, lambda client: client.settle("r1", 60)),
    "a relay's refund": lambda engine: _with_client(engine, lambda client: client.refund("r1")),
    "sweep of intents": lambda engine: _ledger(engine, 60).apply_intents(),
    "expiry": lambda engine: _ledger(engine, DAY_S).expire_holds(),
    "reset": lambda engine: _ledger(engine, DAY_S).reset_subscriptions(),
    "purge": lambda engine: _ledger(engine, 9 * DAY_S).purge(DAY_S),
}


def _step_at_the_driver(step: Callable[[], None]) -> None:
    """Step before every statement that is sent: not all of them go through SQLAlchemy, nor through a cursor."""
    for taker, method in ((psycopg.Cursor, "execute"), (pymysql.connections.Connection, "query")):
        setattr(taker, method, _stepping(getattr(taker, method), step))
    exchange = Prepared.exchange

    def stepping(prepared: Prepared, statements: Sequence[Statement]) -> Waiting[list[Result]]:
        """Step before a list is sent, and again before its answer is there."""
        step()
        waiting = exchange(prepared, statements)
        try:
            wanted = next(waiting)
            step()
            while True:
                wanted = waiting.send((yield wanted))
        except StopIteration as end:
            answers: list[Result] = end.value
            return answers

    Prepared.exchange = stepping  # type: ignore[assignment,method-assign]


def _stepping(carry_out: Callable[..., Any], step: Callable[[], None]) -> Callable[..., Any]:
    def stepping(*given: Any, **options: Any) -> Any:  # noqa: ANN401
        step()
        return carry_out(*given, **options)

    return stepping


def _child(database_url: str, name: str, point: int, folder: str) -> None:
    os.environ["CRASH_FOLDER"] = folder
    engine = engine_of(database_url)
    steps = count()

    def step(*_: object, **__: object) -> None:
        if next(steps) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "commit", step)
    # Every statement, past SQLAlchemy too: after one is before the next.
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.set_trace_callback(step))
    else:
        # What is said on a new connection is no step of the use case.
        engine.connect().close()
        _step_at_the_driver(step)
    USE_CASES[name](engine)
    step()
    engine.dispose()


def killed_at(database_url: str, name: str, point: int, folder: Path) -> bool:
    """Run a use case; False: it has fewer steps than `point`, and came to its end."""
    process = PROCESSES.Process(target=_child, args=(database_url, name, point, str(folder)))
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0
