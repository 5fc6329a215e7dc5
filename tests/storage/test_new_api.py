"""Beside a living relay, in its own tables: what the cases of the contract can't show (semantics §12)."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Integer, event, select, update

from relay_billing import AsyncBillingClient, BillingError, Ledger, Outcome, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain.ownership import Accounts, Calendar
from relay_billing.flows import accounts, tokens
from relay_billing.schema import billing_ledger
from relay_billing.store import drivers
from relay_billing.store.account_shapes import OPTIONAL, OWN, AccountShape
from relay_billing.store.account_statements import account_statements
from relay_billing.store.account_words import AccountWords
from relay_billing.store.drivers import engine_of
from tests.fixtures.accounts import START, Clock, given, states, token, wallet
from tests.fixtures.databases import empty
from tests.fixtures.new_api import SUBSCRIPTIONS, TOKENS, USERS, new_api, new_api_rows

BESIDE = Policy(trust_quota=0, accounts=Accounts.NEW_API)
WHOLE = AccountShape(
    True, frozenset(f"{table}.{column}" for table, columns in OPTIONAL.items() for column in columns), external=True
)
SMALL = 2**31 - 1


@pytest.fixture
def relays(empty_url: str) -> Iterator[Engine]:
    """A relay's own tables, on each database."""
    engine = engine_of(empty_url)
    new_api(engine)
    new_api_rows(
        engine,
        user=[{"id": of, "quota": 1_000} for of in (1, 2)],
        token=[{"id": of, "user_id": of, "remain_quota": 1_000} for of in (1, 2)],
        plan=[{"id": 1, "quota_reset_period": "daily"}],
        subscription=[{"id": 1, "user_id": 2, "plan_id": 1, "amount_total": 900, "end_time": START + 9_000}],
    )
    yield engine
    engine.dispose()


def ask(name: str, user: int = 1, quota: int = 100, preference: str = "wallet_only") -> PreConsume:
    return PreConsume(name, user, user, quota, "m", preference)


def changed(engine: Engine, table: Any, of: int, **values: object) -> None:  # noqa: ANN401
    """What the relay itself writes."""
    with engine.begin() as connection:
        connection.execute(update(table).where(table.c.id == of).values(**values))


def outside(ledger: Ledger) -> dict[str, int]:
    return {f"{each.what} {each.id}": each.difference for each in ledger.findings() if each.outside}


@pytest.mark.parametrize("calendar", list(Calendar))
def test_plain_work_is_done_by_the_fast_paths_in_a_relays_tables_too(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, calendar: Calendar
) -> None:
    engine = engine_of(empty("postgresql", request))
    new_api(engine)
    new_api_rows(
        engine,
        user=[{"id": of, "quota": None if of == 3 else 1_000, "used_quota": None} for of in (1, 2, 3)],
        token=[{"id": of, "user_id": of, "remain_quota": None, "unlimited_quota": True} for of in (1, 2, 3)],
        plan=[{"id": 1}],
        subscription=[
            {"id": 1, "user_id": 2, "plan_id": 1, "amount_total": 900, "end_time": START + 9_000, "updated_at": 3}
        ],
    )
    ledger = Ledger(engine, Policy(trust_quota=500, accounts=Accounts.NEW_API, subscription_calendar=calendar), Clock())
    ledger.overview()

    def general(*_: object, **__: object) -> object:
        raise AssertionError("decided by the general path")

    with monkeypatch.context() as patched:
        patched.setattr(drivers, "_carried_out", general)
        assert ledger.run(_held, ask("t1")).trusted
        bought = ledger.run(_held, ask("s1", 2, preference=""))
        batch = ledger.pre_consume_many(
            [PreConsume(name, 1, 1, 100, "m", "wallet_only", force_pre_consume=True) for name in "ab"]
        )
        assert [getattr(each, "pre_consumed_quota", each) for each in batch] == [100, 100]
        assert ledger.apply([SettleJob("a", 60), RefundJob("b"), SettleJob("t1", 7)]) == [Outcome.APPLIED] * 3
    assert ledger.get("s1") == bought
    assert bought.subscription_id == 1
    assert ledger.apply([SettleJob("s1", 40)]) == [Outcome.APPLIED]
    assert wallet(engine) == 1_000 - 67
    assert token(engine) == -67
    with engine.connect() as connection:
        used = connection.execute(select(TOKENS.c.used_quota, TOKENS.c.accessed_time).where(TOKENS.c.id == 1)).one()
        stamp = connection.execute(select(SUBSCRIPTIONS.c.updated_at, SUBSCRIPTIONS.c.amount_used)).one()
    assert tuple(used) == (67, START)
    assert tuple(stamp) == (START, 40)
    assert list(ledger.findings()) == []
    engine.dispose()


def _held(context: Any, request: PreConsume) -> Any:  # noqa: ANN401
    """One hold, its refusal raised."""
    from relay_billing.flows import holds

    (answer,) = yield from holds.pre_consume(context, [request])
    if isinstance(answer, BillingError):
        raise answer
    return answer


@pytest.mark.parametrize("fast_paths", [True, False], ids=["fast paths", "general path"])
def test_what_a_column_of_32_bits_cant_hold_parks_alone(request: pytest.FixtureRequest, fast_paths: bool) -> None:
    engine = engine_of(empty("postgresql", request))
    narrow = ("users.quota", "users.used_quota", "tokens.remain_quota", "tokens.used_quota")
    new_api(engine, narrow={name: Integer() for name in narrow})
    new_api_rows(
        engine,
        user=[{"id": of, "quota": 1_000} for of in (1, 2, 3)],
        token=[{"id": of, "user_id": of, "remain_quota": 1_000, "unlimited_quota": True} for of in (1, 2, 3)],
    )
    ledger = Ledger(engine, Policy(trust_quota=0, max_settle_quota=0, accounts=Accounts.NEW_API), fast_paths=fast_paths)
    ledger.overview()
    ledger.pre_consume_many([ask("a"), ask("b", 2), ask("c", 3)])
    jobs = [SettleJob("a", 60), SettleJob("b", 3 * SMALL), SettleJob("c", 70)]
    assert ledger.apply(jobs) == [Outcome.APPLIED, Outcome.PARKED, Outcome.APPLIED]
    assert [wallet(engine, of) for of in (1, 2, 3)] == [940, 900, 930]
    assert ledger.get("b").parked_reason == "column_overflow"
    # As low as it goes, and one below.
    changed(engine, TOKENS, 1, remain_quota=-SMALL, used_quota=0)
    answers = ledger.pre_consume_many([ask("d", 1, 2), ask("e", 1, 1), ask("f", 3, 5)])
    assert [getattr(each, "code", "held") for each in answers] == ["update_data_error", "held", "held"]
    assert "tokens.remain_quota of row 1" in str(answers[0])
    with pytest.raises(BillingError, match="quota: the wallet would hold"):
        ledger.top_up(user_id=1, quota=SMALL, reference="p1")
    assert ledger.reconcile() == []
    engine.dispose()


def test_the_tables_are_looked_at_once_and_those_of_our_own_never(relays: Engine) -> None:
    sent: list[str] = []
    event.listen(relays, "before_cursor_execute", lambda *args: sent.append(args[2]))

    def looks() -> int:
        return sum(
            any(word in each for word in ("pg_attribute", "pragma_table_info", "information_schema")) for each in sent
        )

    ledger = Ledger(relays, BESIDE, Clock())
    with pytest.raises(BillingError):
        ledger.get("nothing")
    assert looks() == 1
    ledger.pre_consume_many([ask("a"), ask("b")])
    ledger.apply([SettleJob("a", 5)])
    ledger.apply_intents()
    assert looks() == 1
    Ledger(relays, Policy(trust_quota=0)).pre_consume(request_id="c", user_id=1, token_id=1, quota=1)
    assert looks() == 1


def test_statements_on_our_own_tables_carry_nothing_of_a_relays() -> None:
    texts = [AccountWords(OWN).number("users.quota"), *(str(each) for each in _moves(OWN))]
    assert [each for each in texts if "coalesce" in each.lower() or "accessed_time" in each] == []
    assert all("coalesce" in str(each) for each in _moves(WHOLE)[:2])


def _moves(shape: AccountShape) -> list[object]:
    made = account_statements(shape)
    return [made.move_wallet, made.move_token, made.lock_users, made.lock_tokens]


def test_a_relay_of_asyncio_holds_in_its_own_tables(empty_url: str, tmp_path: Path, relays: Engine) -> None:
    new_api_rows(relays, user=[{"id": 3, "quota": 500, "status": 2}], token=[{"id": 3, "user_id": 3}])

    async def relay() -> list[object]:
        client = AsyncBillingClient(empty_url, f"filesystem://{tmp_path / 'broker'}", BESIDE)
        try:
            asked = [
                client.pre_consume(request_id=f"r{of}", user_id=of, token_id=of, quota=100, preference="wallet_only")
                for of in (1, 2, 3)
            ]
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await client.close()

    answers = asyncio.run(relay())
    assert [getattr(each, "code", "held") for each in answers] == ["held", "held", "query_data_error"]
    assert states(relays) == {"r1": "preconsumed", "r2": "preconsumed"}


def test_an_operator_sees_accounts_with_nulls(relays: Engine) -> None:
    new_api_rows(
        relays,
        user=[{"id": 3, "quota": None, "used_quota": None, "request_count": None}],
        token=[{"id": 3, "user_id": 3, "remain_quota": None, "used_quota": None, "name": None}],
        subscription=[{"id": 3, "user_id": 3, "end_time": None, "start_time": None, "last_reset_time": None}],
    )
    ledger = Ledger(relays, BESIDE)
    found = ledger.read(accounts.account, 3)
    assert found is not None
    assert (found.quota, found.used_quota, found.request_count, found.subscriptions[0].end_time) == (0, 0, 0, 0)
    key = ledger.read(tokens.token, 3)
    assert key is not None
    assert (key.token.remain_quota, key.token.name, key.token.unlimited_quota) == (0, "", False)


def test_an_adoption_explains_each_account_once_and_changes_none(relays: Engine) -> None:
    ledger = Ledger(relays, BESIDE)
    ledger.pre_consume_many([ask("a"), ask("b", 2), ask("s", 2, preference="subscription_only")])
    changed(relays, USERS, 1, quota=5_000)
    changed(relays, TOKENS, 2, remain_quota=None)
    changed(relays, SUBSCRIPTIONS, 1, amount_used=0)
    expected = {"wallet 1": 4_100, "token 2": -800, "subscription 1": 100}
    assert outside(ledger) == expected
    found = list(ledger.findings())
    assert {f"{each.what} {each.id}": each.difference for each in ledger.adopt(found)} == expected
    # The same findings again: each account is compared anew.
    assert ledger.adopt(found) == []
    assert list(ledger.findings()) == []
    assert (wallet(relays, 1), wallet(relays, 2)) == (5_000, 900)
    c = billing_ledger.c
    with relays.connect() as connection:
        rows = connection.execute(
            select(c.account_type, c.amount, c.balance_after).where(c.kind == "adjust").order_by(c.account_type)
        ).all()
    assert [tuple(row) for row in rows] == [("subscription", 100, 0), ("token", -800, 0), ("wallet", 4_100, 5_000)]
    assert ledger.purge(1) == 0
    assert list(ledger.findings()) == []


def test_our_own_accounts_are_not_adopted(engine: Engine) -> None:
    given(engine, user=[{"id": 1, "quota": 1_000}], token=[{"id": 1, "user_id": 1, "remain_quota": 1_000}])
    ledger = Ledger(engine, Policy(trust_quota=0))
    ledger.pre_consume_many([ask("a")])
    changed(engine, USERS, 1, quota=5_000)
    beside = Ledger(engine, BESIDE)
    (found,) = beside.findings()
    assert found.outside
    with pytest.raises(BillingError, match="accounts: are own"):
        ledger.adopt([found])
    (drift,) = ledger.reconcile()
    assert (drift.outside, drift.difference) == (False, 4_100)


def test_retention_keeps_what_others_have_changed_apart(relays: Engine) -> None:
    clock = Clock()
    ledger = Ledger(relays, BESIDE, clock)
    for name in "ab":
        ledger.pre_consume_many([ask(name)])
        ledger.apply([SettleJob(name, 40)])
        changed(relays, USERS, 1, quota=USERS.c.quota + 300)
        clock.at += 1_000
    assert ledger.purge(1_500) == 1
    assert outside(ledger) == {"wallet 1": 600}
    clock.at += 1_000
    assert ledger.purge(10) == 1
    assert outside(ledger) == {"wallet 1": 600}
    assert len(ledger.adopt(list(ledger.findings()))) == 1
    assert list(ledger.findings()) == []


ROUNDS = 40


def test_nothing_of_theirs_and_nothing_of_ours_is_lost_while_both_write(relays: Engine) -> None:
    ledger = Ledger(relays, BESIDE)
    changed(relays, USERS, 1, quota=100_000)
    changed(relays, TOKENS, 1, remain_quota=100_000)
    ledger.pre_consume_many([ask("first", quota=1)])

    def ours(number: int) -> int:
        ledger.pre_consume_many([ask(f"{number}-{of}", quota=30) for of in range(3)])
        ledger.apply([SettleJob(f"{number}-0", 50), RefundJob(f"{number}-1")])
        return -80

    def theirs(number: int) -> int:
        changed(relays, USERS, 1, quota=USERS.c.quota + number)
        return number

    def adopted(_: int) -> int:
        ledger.adopt(list(ledger.findings()))
        return 0

    work = [each for number in range(ROUNDS) for each in ((ours, number), (theirs, number), (adopted, number))]
    with ThreadPoolExecutor(4) as pool:
        moved = sum(pool.map(lambda each: each[0](each[1]), work))
    assert wallet(relays) == 100_000 - 1 + moved
    assert ledger.reconcile() == []
    ledger.adopt(list(ledger.findings()))
    assert list(ledger.findings()) == []
    c = billing_ledger.c
    with relays.connect() as connection:
        amounts = connection.execute(select(c.amount).where(c.kind == "adjust", c.account_type == "wallet")).scalars()
        assert sum(amounts) == sum(range(ROUNDS))
