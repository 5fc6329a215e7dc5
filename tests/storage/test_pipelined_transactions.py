"""PostgreSQL's transactions whose BEGIN and COMMIT are in the pipelines of their statements."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from relay_billing import AsyncBillingClient, Ledger, Policy, UpdateDataError
from relay_billing.store.commands import Command, Steps
from relay_billing.store.drivers import dialect_of, transact
from relay_billing.store.last import Last
from relay_billing.store.postgresql import POSTGRESQL
from tests.fixtures.accounts import given, wallet

QUOTA = 1_000


def moved(user_id: int, touches: int | None = 1) -> Command:
    parameters = {"of": user_id, "delta": -100, "used": 0, "requests": 0}
    return Command(POSTGRESQL.accounts.move_wallet, parameters, touches, constant=True)


def counting(batches: list[list[Command]], then: Callable[[], object] = lambda: None) -> Steps[None]:
    for each in batches:  # noqa: UP028, a list can be sent no replies
        yield each
    then()


@pytest.fixture
def wallets(postgresql: Engine) -> Engine:
    given(postgresql, user=[{"id": of, "quota": QUOTA} for of in (1, 2)])
    return postgresql


def run(engine: Engine, *batches: list[Command], then: Callable[[], object] = lambda: None) -> None:
    transact(engine, dialect_of(engine), lambda: counting(list(batches), then))


def begins_no_transaction_by_itself(engine: Engine) -> bool:
    with engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        return bool(raw.autocommit)


@pytest.mark.parametrize(
    "batches",
    [
        [Last([moved(1), moved(2)])],
        [[moved(1)], [moved(2)]],
        [[moved(1)], Last([moved(2)])],
        [[moved(1)], [Command(text("UPDATE users SET quota = quota - 100 WHERE id = 2"))]],
        [[Command(text("UPDATE users SET quota = quota - 100 WHERE id = 2"))], Last([moved(1)])],
    ],
    ids=["all at once", "no list is the last", "two lists", "a statement that is not sent so", "such a one first"],
)
def test_however_a_transaction_is_sent_it_is_committed_whole(wallets: Engine, batches: list[list[Command]]) -> None:
    run(wallets, *batches)
    assert [wallet(wallets, of) for of in (1, 2)] == [QUOTA - 100] * 2
    assert not begins_no_transaction_by_itself(wallets)


@pytest.mark.parametrize("last", [True, False])
def test_a_count_that_is_not_the_right_one_undoes_the_transaction_that_would_commit_with_it(
    wallets: Engine, last: bool
) -> None:
    commands = [moved(1), moved(3), moved(2)]
    with pytest.raises(UpdateDataError, match="a row moved under its lock: 1 were to change, 0 did"):
        run(wallets, Last(commands) if last else commands)
    assert [wallet(wallets, of) for of in (1, 2)] == [QUOTA] * 2
    assert not begins_no_transaction_by_itself(wallets)


def test_an_error_of_the_flow_between_two_lists_undoes_the_first(wallets: Engine) -> None:
    def fail() -> None:
        raise KeyError("a flow")

    with pytest.raises(KeyError):
        run(wallets, [moved(1)], then=fail)
    assert wallet(wallets, 1) == QUOTA
    assert not begins_no_transaction_by_itself(wallets)


def test_a_flow_that_goes_on_after_its_last_list_is_stopped(wallets: Engine) -> None:
    with pytest.raises(AssertionError, match="went on"):
        run(wallets, Last([moved(1)]), [moved(2)])
    assert wallet(wallets, 2) == QUOTA


def test_listeners_of_the_engine_hear_of_every_begin_and_commit(wallets: Engine) -> None:
    given(wallets, token=[{"id": 1, "user_id": 1, "remain_quota": QUOTA}])
    heard: list[str] = []

    def listening(name: str) -> Callable[[Connection], None]:
        return lambda _: heard.append(name)

    for name in ("begin", "commit", "rollback"):
        event.listen(wallets, name, listening(name))
    ledger = Ledger(wallets, Policy(trust_quota=0), fast_paths=False)
    ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=10)
    assert heard == ["begin", "commit"]


def test_an_async_transaction_that_fails_leaves_its_connection_as_it_was(wallets: Engine) -> None:
    url = wallets.url.render_as_string(hide_password=False)

    async def fail_and_succeed() -> list[bool]:
        client = AsyncBillingClient(url, "filesystem://unused", Policy())
        try:
            with pytest.raises(UpdateDataError):
                await client._run(lambda _: counting([Last([moved(1), moved(3)])]))
            await client._run(lambda _: counting([[moved(1)], Last([moved(2)])]))
            async with client._engine.connect() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                return [raw.autocommit]
        finally:
            await client.close()

    assert asyncio.run(fail_and_succeed()) == [False]
    assert [wallet(wallets, of) for of in (1, 2)] == [QUOTA - 100] * 2
