"""What removes or lists many rows does it in batches, and says when a list is asked for that is too long."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, Table, event, func, insert, select
from structlog.testing import capture_logs

from relay_billing import InvalidRequest, Ledger, Policy
from relay_billing.flows import dead_letters, deliveries, webhooks
from relay_billing.flows.context import BATCH as SWEEP_BATCH
from relay_billing.flows.dead_letters import Filter
from relay_billing.flows.deliveries import KEPT_S as DELIVERIES_KEPT_S
from relay_billing.schema import billing_dead_letters, billing_deliveries, billing_ledger, billing_webhooks
from tasks.base import LedgerTask, OpenLedger
from tasks.reconcile import MAX_DRIFTS_LOGGED, reconcile
from tests.fixtures.accounts import START, Clock

MANY = 2 * SWEEP_BATCH + 1
NOW_MS = START * 1000


@pytest.fixture
def removed(engine: Engine) -> Iterator[list[int]]:
    """Rows that each DELETE removed."""
    counts: list[int] = []

    def count(_: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("DELETE"):
            counts.append(cursor.rowcount)  # type: ignore[attr-defined]

    event.listen(engine, "after_cursor_execute", count)
    yield counts
    event.remove(engine, "after_cursor_execute", count)


def filled(engine: Engine, table: Table, row: dict[str, object], key: str, many: int) -> None:
    with engine.begin() as connection:
        connection.execute(insert(table), [{**row, key: f"k{each}"} for each in range(many)])


def count(engine: Engine, table: Table) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_letters_that_were_dealt_with_go_in_batches(engine: Engine, removed: list[int]) -> None:
    letter = {"task": "t", "reason": "r", "detail": "d", "job": "{}", "created_at": 1, "last_at": 1, "resolved_at": 1}
    filled(engine, billing_dead_letters, letter, "fingerprint", MANY)
    assert Ledger(engine).run_in_batches(dead_letters.purge, NOW_MS) == MANY
    assert removed == [SWEEP_BATCH, SWEEP_BATCH, 1]


def test_webhooks_that_are_closed_go_in_batches(engine: Engine, removed: list[int]) -> None:
    webhook = {"event": "e", "body": "{}", "state": "delivered", "next_at": 1, "created_at": 1, "closed_at": 1}
    filled(engine, billing_webhooks, webhook, "event_id", MANY)
    assert Ledger(engine).run_in_batches(webhooks.purge, NOW_MS) == MANY
    assert removed == [SWEEP_BATCH, SWEEP_BATCH, 1]


def test_counts_of_deliveries_that_do_not_grow_go_in_batches(engine: Engine, removed: list[int]) -> None:
    old = NOW_MS - DELIVERIES_KEPT_S * 1000 - 1
    filled(engine, billing_deliveries, {"deliveries": 1, "last_at": old}, "fingerprint", MANY)
    ledger = Ledger(engine, Policy(), Clock())
    ledger.run(deliveries.count, "young")
    assert ledger.run_in_batches(deliveries.purge) == MANY
    assert removed == [SWEEP_BATCH, SWEEP_BATCH, 1]
    assert count(engine, billing_deliveries) == 1


@pytest.mark.parametrize("chosen", [Filter(limit=0), Filter(limit=10_001), Filter(ids=tuple(range(1, 10_002)))])
def test_a_list_of_letters_is_bounded(engine: Engine, chosen: Filter) -> None:
    with pytest.raises(InvalidRequest, match=r"limit|ids"):
        Ledger(engine).read(dead_letters.find, chosen)


def test_a_retry_of_webhooks_is_bounded(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="ids"):
        Ledger(engine).run(webhooks.retry, range(1, 502))


def test_a_proof_that_finds_much_logs_the_first_and_counts_the_rest(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = {"account_type": "wallet", "account_id": 1, "kind": "settle", "amount": 1, "balance_after": 1}
    filled(engine, billing_ledger, {**orphan, "created_at": 1}, "request_id", MAX_DRIFTS_LOGGED + 50)
    monkeypatch.setenv("BILLING_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.setattr(LedgerTask, "opened", OpenLedger())
    with capture_logs() as lines:
        reconcile.run()
    LedgerTask.opened.open()[0]._engine.dispose()
    assert len([each for each in lines if each["event"] == "drift"]) == MAX_DRIFTS_LOGGED
    assert lines[-1] == {
        "event": "reconciled",
        "drifts": MAX_DRIFTS_LOGGED + 50,
        "logged": MAX_DRIFTS_LOGGED,
        "outside": 0,
        "log_level": "info",
    }
