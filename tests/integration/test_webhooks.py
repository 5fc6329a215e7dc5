"""Workers and beat as operators start them, a receiver that is slow, down or gone in between, and the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from config.celery import options
from config.settings import Settings, SettingsError, load
from relay_billing import BillingClient, Ledger, Policy, SettleJob, migrations
from relay_billing.flows import webhooks
from relay_billing.flows.webhooks import Webhook
from relay_billing.store.drivers import engine_of
from tasks.webhook_http import signature
from tasks.webhooks import webhooks as task
from tests.fixtures.accounts import START, Clock, given, states
from tests.fixtures.receiver import SECRET, Receiver
from tests.fixtures.waiting import until
from tests.fixtures.webhook_workers import SECRET_OF_THE_PATH, settings, webhook_worker
from tests.fixtures.workers import Site
from worker.cli import app

TIMEOUT_S = 40.0
WEALTH = 1_000_000


@pytest.fixture
def client(site: Site) -> Iterator[BillingClient]:
    given(site.engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    policy = Policy(trust_quota=0, announce=True)
    made = BillingClient(site.database_url, site.broker.url, policy=policy)
    yield made
    made.close()


def spend(client: BillingClient, request_id: str, quota: int) -> None:
    client.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=10)
    client.settle(request_id, quota)


def listed(site: Site) -> list[Webhook]:
    return Ledger(site.engine).read(webhooks.find)


def test_a_receiver_that_is_slow_keeps_no_settle_waiting_and_each_event_comes_once(
    site: Site, client: BillingClient, receiver: Receiver
) -> None:
    receiver.open.clear()
    chosen = settings(receiver)
    site.worker(**chosen)  # type: ignore[arg-type]
    out = webhook_worker(site, **chosen)
    spend(client, "r1", 600_000)
    until(receiver.begun.is_set, TIMEOUT_S, "the first delivery begun")
    # That worker now waits for an answer; settles go on.
    for number in range(30):
        spend(client, f"s{number}", 100)
    until(lambda: list(states(site.engine).values()) == ["settled"] * 31, TIMEOUT_S, "all sessions settled")
    assert [each.state for each in listed(site)] == ["pending"]
    receiver.open.set()
    spend(client, "r2", 600_000)
    both = [("wallet.low", "delivered"), ("wallet.exhausted", "delivered")]
    until(lambda: [(each.event, each.state) for each in listed(site)] == both, TIMEOUT_S, "both events delivered")
    assert all(receiver.signed)
    assert set(receiver.ids) == {each.event_id for each in listed(site)}
    for secret in (SECRET, SECRET_OF_THE_PATH):
        assert secret not in out.output


@pytest.fixture
def migrated(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A migrated database, which the settings name, with a wallet that has run low."""
    monkeypatch.setenv("BILLING_DATABASE_URL", empty_url)
    monkeypatch.setenv("BILLING_BROKER_URL", f"filesystem://{tmp_path / 'broker'}")
    monkeypatch.setenv("BILLING_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "140")
    engine = engine_of(empty_url)
    with engine.begin() as connection:
        migrations.upgrade(connection)
    given(engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    yield engine
    engine.dispose()


class Sender:
    """The task, run in this process on a ledger whose clock is stepped."""

    def __init__(self, engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in settings(receiver).items():
            monkeypatch.setenv(f"BILLING_{name.upper()}", str(value))
        self.clock = Clock()
        chosen = load()
        self.ledger = Ledger(engine, chosen.policy, self.clock)
        monkeypatch.setattr(type(task.opened), "open", lambda _: (self.ledger, chosen))

    def run(self) -> list[tuple[str, int]]:
        """Run the task once; state and attempts of every event afterwards."""
        task.run()
        return [(each.state, each.attempts) for each in self.ledger.read(webhooks.find)]


@pytest.fixture
def sender(migrated: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Sender:
    made = Sender(migrated, receiver, monkeypatch)
    made.ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=600_000)
    return made


def test_a_receiver_that_fails_is_tried_again_after_growing_pauses(sender: Sender, receiver: Receiver) -> None:
    receiver.statuses = [500, 503]
    assert sender.run() == [("pending", 1)]
    assert sender.run() == [("pending", 1)]
    assert sender.ledger.read(webhooks.find)[0].last_error == "HTTP 500"
    sender.clock.at += 13
    assert sender.run() == [("pending", 2)]
    sender.clock.at += 13
    assert sender.run() == [("pending", 2)]
    sender.clock.at += 13
    assert sender.run() == [("delivered", 3)]
    assert len(set(receiver.ids)) == 1
    assert receiver.signed == [True] * 3


def test_a_receiver_that_is_down_has_the_event_once_it_is_back(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr("tasks.webhook_http._connected", _refused)
        assert sender.run() == [("pending", 1)]
    assert receiver.bodies == []
    sender.clock.at += 13
    assert sender.run() == [("delivered", 2)]
    assert receiver.events == ["wallet.low"]


def _refused(*_: object) -> None:
    raise ConnectionRefusedError("nobody there")


def test_a_worker_that_dies_between_sending_and_writing_it_down_sends_the_same_event_again(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As SIGKILL: nothing of ours runs after it."""

    def killed(*_: object) -> str:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(webhooks, "close", killed)
        with pytest.raises(Killed):
            task.run()
    assert sender.run() == [("pending", 1)]
    sender.clock.at += 13
    assert sender.run() == [("delivered", 2)]
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1


def test_a_run_ends_after_three_failures_and_leaves_the_rest_for_later(sender: Sender, receiver: Receiver) -> None:
    for number in range(9):
        sender.ledger.run(webhooks.announce_drift, [{"what": f"wallet {number}"}], 1)
    receiver.statuses = [500] * 20
    assert sorted(attempts for _, attempts in sender.run()) == [0] * 7 + [1] * 3


def test_no_transaction_is_open_while_an_event_is_sent(
    sender: Sender, receiver: Receiver, migrated: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def post(*_: object, **__: object) -> None:
        assert migrated.pool.checkedout() == 0, "a connection is in use"  # type: ignore[attr-defined]

    monkeypatch.setattr("tasks.webhooks.post", post)
    assert sender.run() == [("delivered", 1)]


def typed(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def test_events_are_listed_and_failed_ones_are_tried_again(migrated: Engine) -> None:
    assert typed("webhooks", "list").stdout == "no webhooks\n"
    clock = Clock()
    ledger = Ledger(migrated, Policy(trust_quota=0, announce=True), clock)
    ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=600_000)
    ledger.apply([SettleJob("r1", 2_000_000)])
    clock.at = 4 * 86_400
    low = ledger.run(webhooks.claim, 1)[0]
    ledger.run(webhooks.close, low, "HTTP 500")
    (failed,) = json.loads(typed("webhooks", "list", "--state", "failed", "--json").stdout)
    assert (failed["event"], failed["last_error"], failed["created_at"]) == ("wallet.low", "HTTP 500", START * 1000)
    shown = typed("webhooks", "list").stdout
    assert all(word in shown for word in ("wallet.low", "wallet.exhausted", "failed", "pending", "HTTP 500"))
    refused = typed("webhooks", "retry", str(failed["id"]), "999", "--json")
    assert (refused.exit_code, json.loads(refused.stdout)) == (
        1,
        [{"id": failed["id"], "retried": True}, {"id": 999, "retried": False}],
    )
    assert typed("webhooks", "retry", "999").exit_code == 1
    wrong = typed("webhooks", "list", "--state", "sent")
    assert (wrong.exit_code, "pending, delivered, failed" in wrong.output) == (2, True)


# settings, the one that the error names
WRONG = [
    ({"WEBHOOK_URL": "https://ops.example/"}, "BILLING_WEBHOOK_SECRET"),
    ({"WEBHOOK_URL": "https://ops.example/", "WEBHOOK_SECRET": "short-planted"}, "BILLING_WEBHOOK_SECRET"),
    ({"WEBHOOK_URL": "https://ops.example/", "WEBHOOK_SECRET": f"{SECRET},short-planted"}, "BILLING_WEBHOOK_SECRET"),
    ({"WEBHOOK_URL": "https://u:short-planted@ops.example/", "WEBHOOK_SECRET": SECRET}, "BILLING_WEBHOOK_URL"),
    ({"SUBSCRIPTION_LOW_PERCENT": "100"}, "BILLING_SUBSCRIPTION_LOW_PERCENT"),
]


@pytest.mark.parametrize(("given_", "named"), WRONG)
def test_wrong_settings_are_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given_: dict[str, str], named: str
) -> None:
    monkeypatch.setenv("BILLING_BROKER_URL", f"filesystem://{tmp_path / 'broker'}")
    for name, value in given_.items():
        monkeypatch.setenv(f"BILLING_{name}", value)
    with pytest.raises(SettingsError, match=named) as refused:
        load()
    assert "planted" not in str(refused.value)


def test_secrets_are_masked_and_each_signs() -> None:
    chosen = Settings(webhook_secret=f"{SECRET} , the-one-before-that", _env_file=None)
    assert SECRET not in repr(chosen)
    assert SECRET not in str(chosen.model_dump())
    assert chosen.webhook_secrets == (SECRET, "the-one-before-that")
    assert signature(chosen.webhook_secrets, 1, b"{}").count("v1=") == 2


def test_beat_asks_for_deliveries_in_a_queue_of_their_own_and_only_where_there_is_a_url(tmp_path: Path) -> None:
    broker = f"filesystem://{tmp_path / 'broker'}"
    silent = options(Settings(broker_url=broker, _env_file=None))
    telling = options(Settings(broker_url=broker, webhook_url="https://ops.example/", _env_file=None))
    assert "billing.webhooks" not in silent["beat_schedule"]  # type: ignore[operator]
    entry = telling["beat_schedule"]["billing.webhooks"]  # type: ignore[index]
    assert entry["options"] == {"expires": 5, "queue": "billing.webhooks"}
