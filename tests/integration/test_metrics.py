"""What a worker tells Prometheus is what its database says, whatever becomes of its processes."""

import os
import signal
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from relay_billing import BillingClient, Ledger, SettleJob
from relay_billing.domain.account_type import AccountType
from relay_billing.schema import billing_ledger
from tests.fixtures.accounts import given, states
from tests.fixtures.brokers import free_port, on
from tests.fixtures.scraping import agree, children, fetched, scraped
from tests.fixtures.waiting import until
from tests.fixtures.workers import Process, Site

TIMEOUT_S = 40.0
WEALTH = 10**12
HUGE = 600_000_000


@pytest.fixture
def client(site: Site) -> Iterator[BillingClient]:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    made = BillingClient(site.database_url, site.broker.url)
    yield made
    made.close()


def hold(client: BillingClient, *request_ids: str, quota: int = 100, ttl: int | None = None) -> None:
    for each in request_ids:
        client.pre_consume(request_id=each, user_id=1, token_id=1, quota=quota, force_pre_consume=True, hold_ttl=ttl)


@on("redis", "filesystem")
def test_the_numbers_agree_with_the_database_when_children_were_killed(site: Site, client: BillingClient) -> None:
    port = free_port()
    worker = site.worker(metrics_port=port, sweep_interval=3600)
    hold(client, *(f"s{number}" for number in range(20)), *(f"r{number}" for number in range(10)), "huge", "open")
    for number in range(10):
        client.settle(f"s{number}", 60)
    client.settle("huge", HUGE)
    settled = {"billing_jobs_total{applied,billing.settle}": 10.0, "billing_quota_total{settled}": 600.0}
    agree(port, settled | {"billing_jobs_total{parked,billing.settle}": 1.0})
    if site.broker.name != "filesystem":
        # There, children wait for jobs at one lock, and one that is killed while it waits keeps it (billiard): no child
        # works after that, whatever is counted.
        kill_children(worker)
    for number in range(10, 20):
        client.settle(f"s{number}", 60)
    for number in range(10):
        client.refund(f"r{number}")
    agree(
        port, {"billing_jobs_total{applied,billing.refund}": 10.0, "billing_jobs_total{applied,billing.settle}": 20.0}
    )
    client.settle("s0", 60)
    client.settle("s1", 61)
    Ledger(site.engine).reconcile()
    seen = Ledger(site.engine).overview()
    assert seen.reconcile is not None
    agree(
        port,
        {
            "billing_jobs_total{applied,billing.settle}": 20.0,
            "billing_jobs_total{duplicate,billing.settle}": 2.0,
            "billing_jobs_total{conflict,billing.settle}": 1.0,
            "billing_jobs_total{parked,billing.settle}": 1.0,
            "billing_jobs_total{applied,billing.refund}": 10.0,
            "billing_quota_total{settled}": -float(moved(site, "settle")) + 20 * 100,
            "billing_quota_total{refunded}": float(moved(site, "refund")),
            "billing_post_to_applied_seconds_count{billing.settle}": 20.0,
            "billing_post_to_applied_seconds_count{billing.refund}": 10.0,
            "billing_hold_to_applied_seconds_count{billing.settle}": 20.0,
            "billing_dead_letters_total{implausible_amount}": 1.0,
            "billing_open_holds": float(seen.holds.count),
            "billing_open_holds_quota": float(seen.holds.quota),
            "billing_parked_holds": 1.0,
            "billing_waiting_intents": 0.0,
            "billing_open_dead_letters": 1.0,
            "billing_open_dead_letters_quota": float(HUGE),
            "billing_last_reconcile_drifts": 0.0,
            "billing_last_reconcile_timestamp_seconds": seen.reconcile.finished_at / 1000,
            "billing_worker_consuming": 1.0,
            "billing_worker_children": 2.0,
            "billing_database_up": 1.0,
            "billing_broker_up": 1.0,
            "billing_queue_messages{billing}": 0.0,
        },
    )
    assert seen.holds.count == 2
    counted = list((site.folder / "worker" / "metrics").glob("*/counter_*.db"))
    assert len(counted) <= 4, "files of children that are gone are folded into one"


def kill_children(worker: Process) -> None:
    """Kill them all, and wait until as many others are there."""
    before = set(children(worker))
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: len(children(worker)) == len(before) and not set(children(worker)) & before, TIMEOUT_S, "new children"
    )


def moved(site: Site, kind: str) -> int:
    """The sum of the wallets' ledger rows of one kind."""
    c = billing_ledger.c
    where = (c.kind == kind, c.account_type == AccountType.WALLET.value)
    with site.engine.connect() as connection:
        return int(connection.execute(select(func.coalesce(func.sum(c.amount), 0)).where(*where)).scalar_one())


def test_what_waits_is_seen_in_the_queue_and_in_the_intents(site: Site, client: BillingClient) -> None:
    port = free_port()
    # Nobody consumes this queue yet: the only worker listens to another one.
    hold(client, "w0", "w1", "w2")
    Ledger(site.engine).intend([SettleJob("w0", 70)])
    worker = site.worker(metrics_port=port, sweep_interval=3600, concurrency=1)
    os.kill(children(worker)[0], signal.SIGSTOP)
    for number in range(40):
        hold(client, f"q{number}")
        client.settle(f"q{number}", 10)

    def waiting() -> bool:
        samples = scraped(port)
        queued = samples["billing_queue_messages{billing}"]
        return queued > 0 and samples["billing_waiting_intents"] == 41

    until(waiting, TIMEOUT_S, "messages in the queue and intents on the rows")
    samples = scraped(port)
    assert samples["billing_waiting_intents_quota"] == 70 + 400
    assert samples["billing_waiting_intents_oldest_age_seconds"] > 0
    assert ("billing_queue_oldest_age_seconds{billing}" in samples) is (site.broker.name != "rabbitmq")
    for pid in children(worker):
        os.kill(pid, signal.SIGCONT)
    # What is left in the queue would be the next test's.
    until(lambda: list(states(site.engine).values()).count("settled") == 40, TIMEOUT_S, "all that was posted applied")


@on("redis", "rabbitmq")
def test_a_worker_is_ready_while_it_consumes_and_says_so_when_its_broker_is_away(site: Site) -> None:
    port = free_port()
    worker = site.worker(metrics_port=port)
    until(lambda: fetched(port, "/ready")[0] == 200, TIMEOUT_S, "ready")
    assert fetched(port, "/")[0] == 404
    site.broker.stop()
    until(lambda: fetched(port, "/ready")[0] == 503, TIMEOUT_S, "not ready")
    agree(port, {"billing_broker_up": 0.0, "billing_worker_consuming": 0.0, "billing_database_up": 1.0})
    site.broker.start()
    until(lambda: fetched(port, "/ready")[0] == 200, TIMEOUT_S, "ready again")
    assert worker.popen.poll() is None


@on("filesystem")
def test_a_second_worker_says_that_the_port_is_taken_and_works_on(site: Site, client: BillingClient) -> None:
    port = free_port()
    site.worker("first", metrics_port=port)
    second = site.worker("second", metrics_port=port)
    until(lambda: "BILLING_METRICS_PORT" in second.output, TIMEOUT_S, "the port named")
    assert second.popen.poll() is None
