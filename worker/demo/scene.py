"""What the demo needs around it: tables, users, and the worker and beat processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select

from config.settings import Settings
from relay_billing import migrations
from relay_billing.schema import billing_sessions, subscription_plans, tokens, user_subscriptions, users
from worker.health import heartbeat_file

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
MONTH_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Cast:
    """One user of the demo, and what they have at the start. Amounts in quota."""

    name: str
    preference: str
    user_id: int
    token_id: int
    wallet: int
    subscription_id: int | None
    allowance: int


ROLES = (
    # name, preference, wallet, allowance of a subscription
    ("wallet", "wallet_only", 900_000, 0),
    ("subscriber", "subscription_first", 100_000, 600_000),
    ("trusted", "wallet_first", 20_000_000, 0),
    ("almost empty", "wallet_first", 9_000, 0),
)


def settings_of(var: Path) -> Settings:
    """The defaults, whatever the environment says: the demo must never meet a database in use."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    own = {"sweep_interval": 1, "intent_grace": 5, "metrics_port": 0}
    return Settings.model_validate({**defaults, "var_dir": str(var), **own})


def environment(settings: Settings) -> dict[str, str]:
    """The environment of the processes: every setting said, so that no `.env` file changes one."""
    outside = {key: value for key, value in os.environ.items() if not key.startswith("BILLING_")}
    own = {f"BILLING_{name.upper()}": str(value) for name, value in settings.model_dump(mode="json").items()}
    return outside | own


def prepare(engine: Engine) -> list[Cast]:
    """Make tables and users; return who plays."""
    with engine.begin() as connection:
        migrations.upgrade(connection)
    cast = []
    now = int(time.time())
    with engine.begin() as connection:
        plan = connection.execute(subscription_plans.insert().values(title="demo plan")).inserted_primary_key
        for name, preference, wallet, allowance in ROLES:
            user = connection.execute(users.insert().values(username=f"demo {name}", quota=wallet))
            user_id = _key(user.inserted_primary_key)
            key = connection.execute(tokens.insert().values(user_id=user_id, name=name, remain_quota=50_000_000))
            subscription_id = None
            if allowance:
                bought = connection.execute(
                    user_subscriptions.insert().values(
                        user_id=user_id,
                        plan_id=_key(plan),
                        amount_total=allowance,
                        start_time=now,
                        end_time=now + MONTH_S,
                    )
                )
                subscription_id = _key(bought.inserted_primary_key)
            token_id = _key(key.inserted_primary_key)
            cast.append(Cast(name, preference, user_id, token_id, wallet, subscription_id, allowance))
    return cast


def _key(primary_key: object) -> int:
    return int(primary_key[0])  # type: ignore[index]


def open_sessions(engine: Engine, prefix: str) -> int:
    """How many sessions of this demo are not closed yet."""
    c = billing_sessions.c
    with engine.connect() as connection:
        where = (c.request_id.like(f"{prefix}%"), c.state == "preconsumed")
        return connection.execute(select(func.count()).where(*where)).scalar_one()


@contextmanager
def processes(env: Mapping[str, str], var: Path) -> Iterator[None]:
    """A worker with two children and a beat, running while the block runs and ended with it."""
    celery = [sys.executable, "-m", "celery", "-A", "worker"]
    commands = {
        "worker": [*celery, "worker", "-Q", "billing", "-c", "2", "-l", "WARNING"],
        "beat": [*celery, "beat", "-l", "WARNING"],
    }
    for role in commands:
        heartbeat_file(str(var), role).unlink(missing_ok=True)
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for role, command in commands.items():
            with open(var / f"{role}.log", "wb") as log:
                # A session of its own: Ctrl-C is for the demo, which then ends these in order.
                started[role] = subprocess.Popen(
                    command, env=dict(env), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        for role, process in started.items():
            _await_life(role, process, var)
        yield
    finally:
        _stop(list(started.values()))


def _await_life(role: str, process: subprocess.Popen[bytes], var: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not heartbeat_file(str(var), role).exists():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = (var / f"{role}.log").read_text(errors="replace")[-2_000:]
            raise SystemExit(f"the demo's {role} did not start:\n{tail}")
        time.sleep(0.05)


def _stop(running: list[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
