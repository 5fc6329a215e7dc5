"""Events, announced by the transaction that they report, on every database."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, func, select

from relay_billing import InsufficientUserQuota, InvalidRequest, Ledger, Policy, RefundJob, SettleJob
from relay_billing.domain.dead_letters import Letter
from relay_billing.domain.sending import MAX_AGE_S, MAX_ATTEMPTS
from relay_billing.flows import dead_letters, webhooks
from relay_billing.flows.dead_letters import Filter
from relay_billing.schema import billing_webhooks
from tests.fixtures.accounts import START, Clock, given
from tests.fixtures.receiver import PAGE

POLICY = Policy(trust_quota=0, announce=True, wallet_low_quota=500)
HUGE = 600_000_000
FINDINGS = [{"what": "wallet", "id": "1", "expected": 500, "found": 499}]
"""What a reconciliation announces of a drift."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(engine: Engine, clock: Clock) -> Ledger:
    given(
        engine,
        user=[{"id": 1, "quota": 1_000}, {"id": 2, "quota": 1_000}],
        token=[{"id": each, "user_id": each, "remain_quota": 10_000} for each in (1, 2)],
        subscription=[
            {
                "id": 1,
                "user_id": 2,
                "plan_id": 1,
                "amount_total": 1_000,
                "status": "active",
                "start_time": START - 10,
                "end_time": START + 10**6,
            }
        ],
    )
    return Ledger(engine, POLICY, clock)


def hold(ledger: Ledger, request_id: str, quota: int, user_id: int = 1) -> None:
    ledger.pre_consume(request_id=request_id, user_id=user_id, token_id=user_id, quota=quota)


def told(ledger: Ledger) -> list[str]:
    return [each.event for each in ledger.read(webhooks.find)]


def test_a_crossing_is_told_once_however_often_its_job_comes(ledger: Ledger) -> None:
    hold(ledger, "r1", 100)
    for _ in range(3):
        ledger.apply([SettleJob("r1", 600), SettleJob("r1", 600)])
    assert told(ledger) == ["wallet.low"]
    hold(ledger, "r2", 10)
    ledger.apply([SettleJob("r2", 500)])
    assert told(ledger) == ["wallet.low", "wallet.exhausted"]


def test_holds_are_told_and_a_way_up_arms_the_event_again(ledger: Ledger) -> None:
    hold(ledger, "r1", 600)
    hold(ledger, "r1", 600)
    assert told(ledger) == ["wallet.low"]
    ledger.apply([RefundJob("r1")])
    hold(ledger, "r2", 600)
    assert told(ledger) == ["wallet.low", "wallet.low"]
    assert len({each.event_id for each in ledger.read(webhooks.find)}) == 2


def test_what_is_refused_is_not_told(ledger: Ledger) -> None:
    with pytest.raises(InsufficientUserQuota):
        hold(ledger, "r1", 5_000)
    assert told(ledger) == []


def test_a_subscription_is_told(ledger: Ledger) -> None:
    hold(ledger, "r1", 100, user_id=2)
    ledger.apply([SettleJob("r1", 950)])
    (only,) = ledger.read(webhooks.find)
    assert only.event == "subscription.low"
    assert json.loads(only.body)["data"]["left"] == 50


def test_expired_holds_and_swept_intents_are_told_too(ledger: Ledger, clock: Clock) -> None:
    hold(ledger, "r1", 100)
    ledger.intend([SettleJob("r1", 700)])
    clock.at = 60
    ledger.apply_intents()
    assert told(ledger) == ["wallet.low"]


def test_a_dead_letter_is_told_when_it_is_made_and_when_it_is_open_again(ledger: Ledger, engine: Engine) -> None:
    hold(ledger, "r1", 10)
    for _ in range(3):
        ledger.apply([SettleJob("r1", HUGE)])
    assert told(ledger) == ["dead_letter.created"]
    body = json.loads(ledger.read(webhooks.find)[0].body)
    assert body["data"] == {
        "task": "billing.settle",
        "request_id": "r1",
        "user_id": 1,
        "reason": "implausible_amount",
        "quota": HUGE,
    }
    (letter,) = ledger.read(dead_letters.find, Filter())
    ledger.run(dead_letters.write_off, letter.id, "goodwill")
    ledger.apply([SettleJob("r1", HUGE)])
    # Refunded meanwhile: another reason, so another letter.
    assert told(ledger) == ["dead_letter.created", "dead_letter.created"]


def test_buried_messages_are_told_once(ledger: Ledger) -> None:
    letter = Letter.of_message("billing.settle", {"jobs": []}, "empty")
    ledger.run(dead_letters.keep, [letter, letter])
    ledger.run(dead_letters.keep, [letter])
    assert told(ledger) == ["dead_letter.created"]


def test_drift_is_told_once_for_the_same_findings(ledger: Ledger) -> None:
    ledger.run(webhooks.announce_drift, FINDINGS, 1)
    ledger.run(webhooks.announce_drift, FINDINGS, 1)
    ledger.run(webhooks.announce_drift, FINDINGS, 2)
    assert told(ledger) == ["reconcile.drift", "reconcile.drift"]


def test_nothing_is_written_without_a_url(ledger: Ledger, engine: Engine) -> None:
    silent = Ledger(engine, Policy(trust_quota=0), Clock())
    hold(silent, "r1", 1_000)
    silent.apply([SettleJob("r1", 2_000)])
    hold(silent, "r2", 10, user_id=2)
    silent.apply([SettleJob("r2", HUGE)])
    silent.run(webhooks.announce_drift, [{"what": "wallet"}], 1)
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(billing_webhooks)).scalar_one() == 0


def test_an_event_that_was_claimed_and_never_closed_is_due_again_with_the_same_id(ledger: Ledger, clock: Clock) -> None:
    hold(ledger, "r1", 600)
    (first,) = ledger.run(webhooks.claim, 10)
    assert ledger.run(webhooks.claim, 10) == []
    clock.at = 15
    (again,) = ledger.run(webhooks.claim, 10)
    assert (again.event_id, again.body, again.attempts) == (first.event_id, first.body, 2)
    assert ledger.run(webhooks.close, again, None) == "delivered"
    # The first sender comes late with its failure: what was delivered stays delivered.
    ledger.run(webhooks.close, first, "HTTP 500")
    assert [(each.state, each.last_error) for each in ledger.read(webhooks.find)] == [("delivered", None)]


def test_many_senders_together_claim_each_event_once(server: Engine) -> None:
    ledger = Ledger(server, POLICY, Clock())
    for number in range(60):
        ledger.run(webhooks.announce_drift, [{"what": f"wallet {number}"}], 1)
    with ThreadPoolExecutor(8) as pool:
        claimed = [each.id for batch in pool.map(lambda _: ledger.run(webhooks.claim, 1), range(80)) for each in batch]
    left = [each.id for each in ledger.run(webhooks.claim, 500)]
    assert sorted(claimed + left) == [each.id for each in ledger.read(webhooks.find)]


def test_attempts_are_bounded_then_it_is_failed_listed_and_tried_again(ledger: Ledger, clock: Clock) -> None:
    hold(ledger, "r1", 600)
    states = []
    for _ in range(MAX_ATTEMPTS):
        (claimed,) = ledger.run(webhooks.claim, 1)
        states.append(ledger.run(webhooks.close, claimed, "HTTP 500" + "x" * 500))
        clock.at = claimed.next_at / 1000 - START
    assert states == ["pending"] * (MAX_ATTEMPTS - 1) + ["failed"]
    (failed,) = ledger.read(webhooks.find, "failed")
    assert failed.last_error is not None
    assert len(failed.last_error) == 255
    assert ledger.run(webhooks.claim, 1) == []
    assert ledger.run(webhooks.retry, [failed.id, 999]) == [failed.id]
    assert ledger.run(webhooks.retry, [failed.id]) == []
    (again,) = ledger.run(webhooks.claim, 1)
    assert (again.event_id, again.attempts) == (failed.event_id, 1)


def test_an_event_that_is_too_old_is_given_up(ledger: Ledger, clock: Clock) -> None:
    hold(ledger, "r1", 600)
    clock.at = MAX_AGE_S + 1
    (claimed,) = ledger.run(webhooks.claim, 1)
    assert ledger.run(webhooks.close, claimed, "HTTP 500") == "failed"


def test_only_what_is_closed_is_purged(ledger: Ledger, clock: Clock) -> None:
    hold(ledger, "r1", 600)
    ledger.apply([SettleJob("r1", 1_000)])
    (low, *_) = ledger.run(webhooks.claim, 10)
    ledger.run(webhooks.close, low, None)
    assert ledger.run_in_batches(webhooks.purge, (START + 10) * 1000) == 1
    assert told(ledger) == ["wallet.exhausted"]


def test_a_state_that_there_is_not_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidRequest, match="pending, delivered, failed"):
        ledger.read(webhooks.find, "sent")


def test_the_documented_payloads_are_those_that_are_written(ledger: Ledger) -> None:
    documented = {
        json.loads(block)["type"]: json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)
    }
    hold(ledger, "r1", 10)
    ledger.apply([SettleJob("r1", 1_000)])
    hold(ledger, "r2", 10, user_id=2)
    ledger.apply([SettleJob("r2", HUGE)])
    ledger.apply([SettleJob("r2", 950)])
    ledger.run(webhooks.announce_drift, FINDINGS, 1)
    written = {each.event: json.loads(each.body) for each in ledger.read(webhooks.find)}
    assert set(written) == set(documented)
    for name, body in written.items():
        page = documented[name]
        assert (list(page), list(page["data"])) == (list(body), list(body["data"]))
        assert len(page["id"]) == len(body["id"])
        kinds = {key: type(value) for key, value in body["data"].items()}
        assert {key: type(value) for key, value in page["data"].items()} == kinds
    assert documented["reconcile.drift"]["data"] == written["reconcile.drift"]["data"]
