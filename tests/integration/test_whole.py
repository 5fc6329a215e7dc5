"""Ten thousand requests through worker, beat and Flower: every number that is shown agrees with the database."""

import asyncio
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from relay_billing import AsyncBillingClient
from tests.fixtures.accounts import given
from tests.fixtures.brokers import free_port
from tests.fixtures.flower import Watched
from tests.fixtures.scraping import Samples, agree, children, fetched, scraped
from tests.fixtures.typed import Typed, typed
from tests.fixtures.waiting import until
from tests.fixtures.workers import CELERY, Process, environment

REQUESTS, CALLERS, USERS = 10_000, 64, 100
WEALTH = 10**9
HELD = 100
HUGE = 600_000_000
"""A settle of more than `max_settle_quota`: it is parked, and a dead letter."""
TIMEOUT_S = 90.0

Found = dict[str, tuple[int, int, int]]

BY_STATE = """SELECT state, count(*), coalesce(sum(pre_consumed_quota), 0), coalesce(sum(actual_quota), 0)
    FROM billing_sessions GROUP BY state"""


async def relayed(watched: Watched) -> None:
    """Of twenty requests fourteen are settled, four refunded, and two left open."""
    client = AsyncBillingClient(watched.site.database_url, watched.site.broker.url)
    numbers = iter(range(REQUESTS))

    async def caller() -> None:
        for number in numbers:
            of = 2 + number % USERS
            session = await client.pre_consume(
                request_id=f"w{number}", user_id=of, token_id=of, quota=HELD, force_pre_consume=True
            )
            match number % 20:
                case 18 | 19:
                    continue
                case 14 | 15 | 16 | 17:
                    await session.refund("upstream_failed")
                case _:
                    await session.settle(HUGE if number == 0 else 1 + number % 150)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    await client.close()


def in_database(watched: Watched) -> Found:
    """By state: sessions, quota they held, quota they were charged."""
    with watched.site.engine.connect() as connection:
        return {row[0]: (int(row[1]), int(row[2]), int(row[3])) for row in connection.execute(text(BY_STATE))}


def succeeded(watched: Watched) -> Counter[str]:
    """By task: how many Flower has seen to succeed, by its own metrics."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(watched.fetch("/metrics")[1]):
        for sample in family.samples:
            if sample.name == "flower_events_total" and sample.labels["type"] == "task-succeeded":
                found[sample.labels["task"]] += int(sample.value)
    return found


def described(watched: Watched, task: str) -> tuple[int, int]:
    """Jobs and quota of all tasks of a name, as Flower's lists show them."""
    jobs = quota = 0
    for each in watched.tasks().values():
        if each["name"] == task:
            said = re.fullmatch(r"(\d+) jobs?, first \S+?(?:, (\d+) quota)?", str(each["kwargs"]))
            assert said is not None, each
            jobs, quota = jobs + int(said[1]), quota + int(said[2] or 0)
    return jobs, quota


def seen(watched: Watched) -> Mapping[str, Any]:
    """What `status` tells."""
    told: Mapping[str, Any] = on(watched, "status", "--json").json
    return told


def on(watched: Watched, *words: str, max_settle_quota: int = 500_000_000) -> Typed:
    """A command of an operator."""
    return typed(watched.site, *words, max_settle_quota=max_settle_quota)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("watched", ["redis"], indirect=True)
def test_that_every_number_told_agrees_with_the_database(watched: Watched) -> None:
    given(
        watched.site.engine,
        user=[{"id": of, "quota": WEALTH} for of in range(2, USERS + 2)],
        token=[{"id": of, "user_id": of, "remain_quota": WEALTH} for of in range(2, USERS + 2)],
    )
    port = free_port()
    worker = watched.site.worker(metrics_port=port)
    env = environment(watched.site.database_url, watched.site.broker.url, watched.site.folder / "beat")
    watched.site.spawn((*CELERY, "beat"), env)
    asyncio.run(relayed(watched))

    def closed() -> bool:
        status = seen(watched)["standing"]
        return int(status["overview"]["intents"]["count"]) == 0 and watched.waiting() == 0

    until(closed, TIMEOUT_S, "all that was posted applied")
    assert on(watched, "reconcile").code == 0
    found = in_database(watched)
    settled, refunded, open_ = found["settled"], found["refunded"], found["preconsumed"]
    assert (settled[0], refunded[0], open_[0]) == (6_999, 2_000, 1_001)

    _status_and_metrics_agree(watched, port, found)
    _flower_agrees(watched, found)
    _a_killed_process_is_seen(watched, worker, port)
    _a_dead_letter_is_dealt_with_by_the_runbook(watched)


def _status_and_metrics_agree(watched: Watched, port: int, found: Found) -> None:
    settled, refunded, open_ = found["settled"], found["refunded"], found["preconsumed"]
    overview = seen(watched)["standing"]["overview"]
    assert (overview["holds"]["count"], overview["holds"]["quota"], overview["parked"]) == (*open_[:2], 1)
    assert (overview["dead_letters"]["count"], overview["dead_letters"]["quota"]) == (1, HUGE)
    assert overview["reconcile"]["drifts"] == 0
    wanted: Samples = {
        "billing_jobs_total{applied,billing.settle}": settled[0],
        "billing_jobs_total{applied,billing.refund}": refunded[0],
        "billing_jobs_total{parked,billing.settle}": 1,
        "billing_quota_total{settled}": settled[2],
        "billing_quota_total{refunded}": refunded[1],
        "billing_post_to_applied_seconds_count{billing.settle}": settled[0],
        "billing_open_holds": open_[0],
        "billing_open_holds_quota": open_[1],
        "billing_parked_holds": 1,
        "billing_waiting_intents": 0,
        "billing_open_dead_letters": 1,
        "billing_open_dead_letters_quota": HUGE,
        "billing_last_reconcile_drifts": 0,
        "billing_queue_messages{billing}": 0,
        "billing_worker_consuming": 1,
        "billing_worker_children": 2,
    }

    agree(port, wanted)


def _flower_agrees(watched: Watched, found: Found) -> None:
    """Every job is in a task that succeeded, and there are as many tasks as the worker says it has done."""
    settled, refunded = found["settled"], found["refunded"]
    assert described(watched, "billing.settle") == (settled[0] + 1, settled[2] + HUGE)
    assert described(watched, "billing.refund")[0] == refunded[0]
    money = {"billing.settle", "billing.refund"}
    assert {each["state"] for each in watched.tasks().values() if each["name"] in money} == {"SUCCESS"}
    until(
        lambda: [each["jobs"] for each in seen(watched)["workers"]] == [succeeded(watched).total()],
        TIMEOUT_S,
        "as many tasks on `status` as in Flower",
    )


def _a_killed_process_is_seen(watched: Watched, worker: Process, port: int) -> None:
    child = min(children(worker))
    os.kill(child, signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    until(lambda: scraped(port)["billing_worker_children"] == 2 and child not in children(worker), 30, "a new one")
    worker.end()
    until(lambda: seen(watched)["workers"] == [], TIMEOUT_S, "no worker on `status`")
    assert fetched(port, "/metrics") == (0, "")
    assert on(watched, "health").code == 1
    watched.site.worker(metrics_port=port)
    until(lambda: len(seen(watched)["workers"]) == 1, TIMEOUT_S, "the next worker on `status`")
    assert scraped(port)["billing_worker_consuming"] == 1
    assert on(watched, "health").code == 0


def _a_dead_letter_is_dealt_with_by_the_runbook(watched: Watched) -> None:
    (letter,) = on(watched, "dead-letters", "list", "--json").json
    assert (letter["request_id"], letter["reason"], letter["quota"]) == ("w0", "implausible_amount", HUGE)
    explained = on(watched, "dead-letters", "show", str(letter["id"])).said
    assert "above max_settle_quota" in explained
    assert "parked" in on(watched, "sessions", "show", "w0").said
    assert on(watched, "dead-letters", "replay", str(letter["id"])).code == 1, "it is as implausible as before"
    replayed = on(watched, "dead-letters", "replay", str(letter["id"]), max_settle_quota=0)
    assert replayed.code == 0, replayed
    assert json.loads(on(watched, "dead-letters", "list", "--json").said) == []
    standing = seen(watched)["standing"]["overview"]
    assert (standing["dead_letters"]["count"], standing["parked"]) == (0, 0)
    assert in_database(watched)["settled"][0] == 7_000
    assert on(watched, "reconcile").code == 0
