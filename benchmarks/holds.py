"""Holds a second: wallet, subscription, trusted; 1 to 256 callers; evenly, Zipf, one wallet; PostgreSQL and SQLite."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine

from benchmarks import baselines
from benchmarks.measure import USERS, Measured, Rate, Scenario, by_tasks, by_threads, evenly, hot, request_id, zipf
from benchmarks.site import POLICY, Site, fill
from relay_billing import AsyncBillingClient, BillingClient, Policy

SECONDS = 1.5
NOBODY = "redis://127.0.0.1:1/0"
"""Holds need no broker."""
Who = Callable[[], int]


def subscriber() -> int:
    """Any user with a subscription."""
    return USERS + evenly()


def asked(who: Who, preference: str = "wallet_first") -> dict[str, Any]:
    """One request."""
    user = who()
    return {"request_id": request_id(), "user_id": user, "token_id": user, "quota": 1, "preference": preference}


def client(url: str, callers: int, who: Who, preference: str = "wallet_first", policy: Policy = POLICY) -> Measured:
    """`BillingClient`, from threads."""

    def measured() -> Rate:
        ours = BillingClient(url, NOBODY, policy)
        try:
            return by_threads(callers, SECONDS, lambda: ours.pre_consume(**asked(who, preference)))
        finally:
            ours.close()

    return measured


def async_client(
    url: str, callers: int, who: Who, preference: str = "wallet_first", policy: Policy = POLICY
) -> Measured:
    """`AsyncBillingClient`, from tasks."""

    async def run() -> Rate:
        ours = AsyncBillingClient(url, NOBODY, policy)
        try:
            return await by_tasks(callers, SECONDS, lambda: ours.pre_consume(**asked(who, preference)))
        finally:
            await ours.close()

    return lambda: asyncio.run(run())


def pool(url: str, callers: int) -> Engine:
    """A connection for each caller, 64 at the most: PostgreSQL has 120. All are open before anything is measured."""
    connections = min(callers, 64)
    engine = create_engine(url, pool_size=connections, max_overflow=0, pool_timeout=60)
    with ExitStack() as opened:
        for _ in range(connections):
            opened.enter_context(engine.connect())
    return engine


def orm(url: str, callers: int, who: Who) -> Measured:
    """The naive ORM, from threads."""

    def measured() -> Rate:
        engine = pool(url, callers)
        try:
            return by_threads(callers, SECONDS, lambda: baselines.orm_hold(engine, request_id(), who(), 1))
        finally:
            engine.dispose()

    return measured


def four(url: str, callers: int, who: Who) -> Measured:
    """The seed's sequence, from threads."""

    def measured() -> Rate:
        engine = pool(url, callers)
        try:
            return by_threads(callers, SECONDS, lambda: baselines.four_statements(engine, who(), 1))
        finally:
            engine.dispose()

    return measured


def bare(site: Site, callers: int, who: Who) -> Measured:
    """The floor: one statement through the driver, a connection for each thread."""

    def measured() -> Rate:
        opened: list[psycopg.Connection[Any]] = []
        mine = threading.local()

        def call() -> None:
            if not hasattr(mine, "connection"):
                mine.connection = psycopg.connect(site.dsn, autocommit=True)
                opened.append(mine.connection)
            baselines.bare_statement(mine.connection, request_id(), who(), 1)

        try:
            return by_threads(callers, SECONDS, call)
        finally:
            for connection in opened:
                connection.close()

    return measured


def scenarios(site: Site) -> list[Scenario]:
    """What is compared on PostgreSQL."""
    url = site.url
    found = []
    for callers in (1, 8, 64, 256):
        ours = {"BillingClient": client(url, callers, evenly), "AsyncBillingClient": async_client(url, callers, evenly)}
        if callers >= 64:
            ours = dict(reversed(ours.items()))
        ways = {**ours, "naive ORM": orm(url, callers, evenly), "seed's sequence": four(url, callers, evenly)}
        if callers <= 64:
            ways["bare statement"] = bare(site, callers, evenly)
        found.append(Scenario(f"wallet, evenly, {callers} callers", "concurrency", callers, ways))
    for name, who in (("one hot wallet", hot), ("Zipf", zipf)):
        ways = {"AsyncBillingClient": async_client(url, 64, who), "naive ORM": orm(url, 64, who)}
        found.append(Scenario(f"wallet, {name}, 64 callers", "spread", 64, ways))
    by_subscription = {
        "AsyncBillingClient": async_client(url, 64, subscriber, "subscription_first"),
        "naive ORM": orm(url, 64, evenly),
    }
    found.append(Scenario("subscription, 64 callers", "source", 64, by_subscription))
    lone = {"BillingClient": client(url, 1, subscriber, "subscription_first"), "naive ORM": orm(url, 1, evenly)}
    found.append(Scenario("subscription, 1 caller", "source", 1, lone))
    for callers, way in ((1, client), (64, async_client)):
        name = "BillingClient" if way is client else "AsyncBillingClient"
        ways = {name: way(url, callers, evenly, "wallet_first", Policy()), "naive ORM": orm(url, callers, evenly)}
        found.append(Scenario(f"trusted, {callers} callers", "source", callers, ways))
    return found


def sqlite_scenarios(folder: Path) -> list[Scenario]:
    """The same on SQLite, in one file for ours and one for the ORM."""
    urls = [f"sqlite:///{folder / name}.db" for name in ("ours", "orm")]
    for url in urls:
        fill(url, 1_000)
    return [
        Scenario(
            f"SQLite, {callers} callers",
            "SQLite",
            callers,
            {"BillingClient": client(urls[0], callers, evenly), "naive ORM": orm(urls[1], callers, evenly)},
        )
        for callers in (1, 8)
    ]
