"""A worker that is killed while it sends a webhook."""

import os
import signal

import pytest

from relay_billing import Ledger, Policy
from relay_billing.flows import webhooks
from tests.fixtures.accounts import given
from tests.fixtures.receiver import Receiver
from tests.fixtures.waiting import until
from tests.fixtures.webhook_workers import settings, webhook_worker
from tests.fixtures.workers import Site

TIMEOUT_S = 60.0
WEALTH = 1_000_000


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_a_worker_killed_between_sending_and_writing_it_down_is_made_up_for_with_the_same_event(
    site: Site, receiver: Receiver
) -> None:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    ledger = Ledger(site.engine, Policy(trust_quota=0, announce=True))
    receiver.open.clear()
    chosen = settings(receiver)
    first = webhook_worker(site, **chosen)
    ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=600_000)
    until(receiver.begun.is_set, TIMEOUT_S, "the delivery received, not answered")
    os.killpg(first.popen.pid, signal.SIGKILL)
    first.popen.wait()
    receiver.open.set()
    assert [each.state for each in ledger.read(webhooks.find)] == ["pending"]
    webhook_worker(site, **chosen)
    until(
        lambda: [each.state for each in ledger.read(webhooks.find)] == ["delivered"], TIMEOUT_S, "the event delivered"
    )
    assert len(receiver.ids) >= 2
    assert len(set(receiver.ids)) == 1
    assert all(receiver.signed)
