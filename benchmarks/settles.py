"""Settles a second, end to end: from the first post to the last one applied, through Redis and RabbitMQ."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from celery import Celery
from sqlalchemy import Engine, func, insert, select, text

from benchmarks import baselines
from benchmarks.measure import Rate, Scenario, evenly, request_id
from benchmarks.site import BATCH, POLICY, Site, worker
from relay_billing import Ledger, PreConsume
from relay_billing.broker.options import broker_options
from relay_billing.domain.jobs import SETTLE_TASK
from relay_billing.schema import billing_sessions
from tests.fixtures.waiting import until

COALESCED, SINGLE, NAIVE = 20_000, 1_500, 600
"""Settles of one round: each takes a second or more."""
PROBES = 60
TIMEOUT_S = 300.0


def hold(ledger: Ledger, count: int) -> list[str]:
    """Open so many sessions of any users."""
    ids = [request_id() for _ in range(count)]
    for start in range(0, count, BATCH):
        asked = []
        for each in ids[start : start + BATCH]:
            user = evenly()
            asked.append(PreConsume(each, user, user, 10, "bench", "wallet_only"))
        ledger.pre_consume_many(asked)
    return ids


def hold_naively(engine: Engine, count: int) -> list[str]:
    """The same in the naive table."""
    rows = [
        {"request_id": request_id(), "user_id": evenly(), "quota": 10, "state": "preconsumed"} for _ in range(count)
    ]
    with engine.begin() as connection:
        connection.execute(insert(baselines.NaiveSession), rows)
    return [str(row["request_id"]) for row in rows]


def settled(engine: Engine, ids: Sequence[str], *, naively: bool = False) -> Callable[[], bool]:
    """Whether all of these are settled, asked by the last ones first: they come last."""
    table, tail = ("naive_sessions" if naively else "billing_sessions"), list(ids[-50:])
    some = text(f"SELECT count(*) FROM {table} WHERE request_id = ANY(:ids) AND state = 'settled'")

    def condition() -> bool:
        with engine.connect() as connection:
            if connection.execute(some, {"ids": tail}).scalar_one() < len(tail):
                return False
            return int(connection.execute(some, {"ids": list(ids)}).scalar_one()) == len(ids)

    return condition


class Posting:
    """Posts settles to one broker, in messages of so many jobs."""

    def __init__(self, site: Site, broker: str) -> None:
        self.engine = site.engine()
        self.ledger = Ledger(self.engine, POLICY)
        self.app = Celery("bench", set_as_current=False)
        self.app.conf.update(broker_options(site.brokers[broker].url))
        self.naive = Celery("naive", broker=site.brokers[broker].url, set_as_current=False)
        self.naive.conf.task_ignore_result = True

    def ours(self, count: int, jobs: int) -> Rate:
        """All of them applied by the worker."""
        ids = hold(self.ledger, count)
        began = time.perf_counter()
        for start in range(0, count, jobs):
            wire = [{"request_id": each, "actual_quota": 7, "reason": None} for each in ids[start : start + jobs]]
            self.app.send_task(SETTLE_TASK, kwargs={"jobs": wire}, queue="billing")
        until(settled(self.engine, ids), TIMEOUT_S, "all settled")
        return self._rate(count, time.perf_counter() - began)

    def naively(self, count: int) -> Rate:
        """One task a settle."""
        ids = hold_naively(self.engine, count)
        began = time.perf_counter()
        for each in ids:
            self.naive.send_task("naive.settle", (each, 7), queue="naive")
        until(settled(self.engine, ids, naively=True), TIMEOUT_S, "all settled naively")
        return self._rate(count, time.perf_counter() - began)

    def _rate(self, count: int, seconds: float) -> Rate:
        return Rate(count / seconds, 0.0, 0.0)

    def promptness(self) -> Rate:
        """From post to applied of single settles, one at a time, while the worker is idle."""
        latencies = []
        c = billing_sessions.c
        for each in hold(self.ledger, PROBES):
            began = time.perf_counter()
            wire = {"request_id": each, "actual_quota": 7, "reason": None}
            self.app.send_task(SETTLE_TASK, kwargs={"jobs": [wire]}, queue="billing")
            query = select(func.count()).where(c.request_id == each, c.state == "settled")
            while True:
                with self.engine.connect() as connection:
                    if connection.execute(query).scalar_one():
                        break
            latencies.append((time.perf_counter() - began) * 1000)
        latencies.sort()
        return Rate(1000 / statistics.mean(latencies), latencies[PROBES // 2], latencies[int(PROBES * 0.99)])


@contextmanager
def compared(site: Site, broker: str) -> Iterator[list[Scenario]]:
    """The comparisons through one broker, while a worker of ours and a naive one are there, two children each."""
    with worker(site, broker, "worker", "billing"), worker(site, broker, "benchmarks.naive", "naive"):
        posting = Posting(site, broker)

        def naively() -> Rate:
            return posting.naively(NAIVE)

        yield [
            Scenario(
                f"settle through {broker}, 500 jobs a message",
                "settle",
                0,
                {"coalesced": lambda: posting.ours(COALESCED, BATCH), "naive task": naively},
            ),
            Scenario(
                f"settle through {broker}, 1 job a message",
                "settle",
                0,
                {"single": lambda: posting.ours(SINGLE, 1), "naive task": naively},
            ),
            Scenario(f"settle through {broker}, idle", "promptness", 1, {"post to applied": posting.promptness}),
        ]
        posting.engine.dispose()


def resident_mib(pid: int) -> float:
    """Memory of a worker's children, in MiB: what a leak would grow."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = [int(Path(f"/proc/{child}/statm").read_text().split()[1]) for child in children]
    return sum(pages) * 4096 / 2**20
