"""Lists of statements in one packet, on MySQL and MariaDB, and what breaks off within one."""

import asyncio
from collections.abc import Callable, Sequence

import pymysql
import pytest
from sqlalchemy import Engine, create_engine, make_url, select, text
from sqlalchemy.exc import DBAPIError

from relay_billing import (
    AsyncBillingClient,
    BillingSession,
    Ledger,
    Outcome,
    Policy,
    PreConsume,
    SettleJob,
    UpdateDataError,
)
from relay_billing.schema import billing_ledger
from relay_billing.store import mysql_connections, mysql_direct
from relay_billing.store.async_drivers import async_engine_of
from relay_billing.store.commands import Command, Reply
from relay_billing.store.drivers import engine_of
from relay_billing.store.last import Last
from relay_billing.store.mysql import MYSQL
from relay_billing.store.mysql_direct import acarried_out, carried_out
from relay_billing.store.statements import ADD_ENTRY
from tests.fixtures.accounts import START, Clock, given, wallet
from tests.fixtures.five_users import WEALTH, hold, of_five

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def ledger(mariadb: Engine) -> Ledger:
    """Five users with a token each."""
    return of_five(mariadb)


def sent_by(patch: pytest.MonkeyPatch, method: str = "query") -> list[str]:
    """What connections send from now on."""
    sent: list[str] = []
    for name in (method, "commit", "rollback"):
        # Beneath ours, which send no commit where there is nothing to commit.
        real = getattr(pymysql.connections.Connection, name)

        def noting(self: object, *args: object, real: Callable[..., object] = real, name: str = name) -> object:
            sent.append(str(args[0] if args else name))
            return real(self, *args)

        patch.setattr(pymysql.connections.Connection, name, noting)
    return sent


def test_a_hold_takes_three_round_trips_and_a_settle_two(
    ledger: Ledger, mariadb: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting = {"amount_total": 900, "start_time": START - 5, "end_time": START + 5}
    given(mariadb, plan=[{"id": 1, "title": "daily"}], subscription=[{"user_id": 2, "plan_id": 1, **lasting}])
    hold(ledger, "warm")
    sent = sent_by(monkeypatch)
    for user_id in (1, 2):
        # The first one asks for subscriptions: of most users there are none to be locked.
        hold(ledger, f"r{user_id}", user_id)
        assert len(sent) == 3, sent
        assert ("FROM subscription_plans" in sent[1]) is (user_id == 2)
        assert sent[2].endswith("; COMMIT")
        sent.clear()
    ledger.apply([SettleJob("r1", 30)])
    assert len(sent) == 2, sent
    sent.clear()
    ledger.intend([SettleJob("warm", 30)])
    ledger.get("warm")
    assert len(sent) == 2, sent


def test_a_driver_without_the_flag_is_sent_each_statement_by_itself(
    mariadb: Engine, mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(mariadb, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    own = create_engine(mariadb_url)
    ledger = Ledger(own, Policy(trust_quota=0))
    hold(ledger, "warm")
    sent = sent_by(monkeypatch)
    hold(ledger, "r1")
    # Two that set the session up, four reads, four writes, the commit, and what the caller's pool does.
    assert [each for each in sent if ";" in each] == []
    assert sent[10:] == ["commit", "rollback"], sent
    own.dispose()
    assert wallet(mariadb) == WEALTH - 200


def test_a_row_that_moved_under_its_lock_stops_the_list_before_its_commit(ledger: Ledger, mariadb: Engine) -> None:
    hold(ledger, "r1")
    rows = [{"of": of, "delta": 5, "used": 0, "requests": 0} for of in (1, 99)]
    for some, words in ((rows, "2 were to change, 1 did"), (rows[1:], "1 were to change, 0 did")):
        with pytest.raises(UpdateDataError, match=words), mariadb.begin() as connection:
            carried_out(connection, Last([MYSQL.many(MYSQL.accounts.move_wallet, some)]))
        assert wallet(mariadb) == WEALTH - 100
    hold(ledger, "r2")
    assert ledger.reconcile() == []


FIRST, BROKEN, NEVER = (
    Command.of_constant(text(words), of=1)
    for words in (
        "UPDATE users SET quota = 1 WHERE id = :of",
        "UPDATE users SET quota = 9223372036854775807 + :of WHERE id = 1",
        "UPDATE users SET quota = 3 WHERE id = :of",
    )
)
MINE = text("SELECT connection_id()")


def test_an_error_within_a_list_names_its_statement_and_leaves_nothing_behind(ledger: Ledger, mariadb: Engine) -> None:
    with mariadb.connect() as connection:
        before = connection.execute(MINE).scalar()
        with pytest.raises(DBAPIError) as failed:
            carried_out(connection, Last([FIRST, BROKEN, NEVER]))
        assert "9223372036854775807" in str(failed.value.statement)
        assert not failed.value.connection_invalidated
        # The next answer is the one to the next question.
        assert connection.execute(text("SELECT quota FROM users WHERE id = 1")).scalar() == 1
        connection.rollback()
        assert connection.execute(MINE).scalar() == before
    assert wallet(mariadb) == WEALTH


def test_an_error_within_a_list_leaves_nothing_behind_on_asyncio(
    ledger: Ledger, mariadb: Engine, mariadb_url: str
) -> None:
    async def fail() -> None:
        engine = async_engine_of(mariadb_url)
        async with engine.connect() as connection:
            before = (await connection.execute(MINE)).scalar()
            with pytest.raises(DBAPIError) as failed:
                await acarried_out(connection, Last([FIRST, BROKEN, NEVER]))
            assert "9223372036854775807" in str(failed.value.statement)
            await connection.rollback()
            assert (await connection.execute(MINE)).scalar() == before
        await engine.dispose()

    asyncio.run(fail())
    assert wallet(mariadb) == WEALTH


def test_a_call_that_is_cancelled_within_a_list_closes_its_connection(mariadb_url: str) -> None:
    quick, slow = (Command.of_constant(text(words)) for words in ("SELECT 1", "SELECT SLEEP(5)"))

    async def cancel() -> None:
        engine = async_engine_of(mariadb_url)
        async with engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await acarried_out(connection, [quick, slow, quick])
            assert raw.closed
            await connection.invalidate()
        await engine.dispose()

    asyncio.run(cancel())


def test_columns_are_parsed_once_however_often_they_are_read(ledger: Ledger, mariadb: Engine) -> None:
    hold(ledger, "r1")
    (parsed,) = mysql_connections._PARSED.values()
    before = parsed.cache_info()  # type: ignore[attr-defined]
    hold(ledger, "r2")
    after = parsed.cache_info()  # type: ignore[attr-defined]
    assert after.misses == before.misses
    assert after.hits > before.hits


EVIL = (
    "'; DROP TABLE users; --",
    "\\'; DROP TABLE users; --",
    "\\",
    "\\\\'",
    "'';\"`%(of)s %s %%",
    "a\nb\r\t\x1a;",
    "\U0001f4b8; \U00020000'",
    "\xe1\xbf\x5c';--",
)
KEPT = Command.of_constant(
    select(billing_ledger.c.request_id, billing_ledger.c.note).order_by(billing_ledger.c.account_id)
)


def written(many: Sequence[str]) -> list[Command]:
    """Rows of the ledger with these values as ids, as bytes, and as notes, as text; then what is there."""
    rows = [
        {"request_id": each, "account_type": "wallet", "account_id": of, "kind": "adjust", "step": 0, "amount": 0}
        | {"balance_after": 0, "created_at": 0, "note": each, "shadow": False}
        for of, each in enumerate(many)
    ]
    return [MYSQL.many(ADD_ENTRY, rows), KEPT]


@pytest.mark.parametrize("modes", ["", "NO_BACKSLASH_ESCAPES"])
def test_a_value_stays_a_value_whatever_it_says(ledger: Ledger, mariadb: Engine, mariadb_url: str, modes: str) -> None:
    url = make_url(mariadb_url).update_query_dict({"sql_mode": modes} if modes else {})
    evil = url.render_as_string(hide_password=False)

    async def on_asyncio() -> list[Reply]:
        engine = async_engine_of(evil)
        async with engine.connect() as connection:
            assert modes in str((await connection.execute(text("SELECT @@sql_mode"))).scalar())
            found = await acarried_out(connection, written(EVIL))
            await connection.rollback()
        await engine.dispose()
        return found

    engine = engine_of(evil)
    with engine.connect() as connection:
        assert modes in str(connection.execute(text("SELECT @@sql_mode")).scalar())
        found = carried_out(connection, written(EVIL))
        connection.rollback()
    for replies in (found, asyncio.run(on_asyncio())):
        assert [(each["request_id"], each["note"]) for each in replies[1].rows] == [(each, each) for each in EVIL]
    ours = Ledger(engine, Policy(trust_quota=0), Clock())
    for each in EVIL:
        session = ours.pre_consume(request_id=each, user_id=1, token_id=1, quota=10, model_name=each)
        assert session.model_name == ours.get(each).model_name == each
    assert ours.apply([SettleJob(each, 5, reason=each) for each in EVIL]) == [Outcome.APPLIED] * len(EVIL)
    assert [ours.get(each).reason for each in EVIL] == list(EVIL)
    engine.dispose()
    assert ledger.reconcile() == []
    assert wallet(mariadb) == WEALTH - 5 * len(EVIL)


def test_a_list_that_is_too_long_for_one_packet_goes_in_several(
    ledger: Ledger, mariadb: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql_direct, "PACKET_CHARACTERS", 2_000)
    sent = sent_by(monkeypatch)
    asked = [PreConsume(f"r{of}", of % 5 + 1, of % 5 + 1, 10) for of in range(40)]
    held = ledger.pre_consume_many(asked)
    assert {type(each) for each in held} == {BillingSession}
    assert len(sent) > 5
    assert [each[-6:] for each in sent if "COMMIT" in each] == [sent[-1][-6:]] == ["COMMIT"]
    assert [wallet(mariadb, of) for of in range(1, 6)] == [WEALTH - 80] * 5
    assert ledger.reconcile() == []


def unlocked(mariadb_url: str) -> None:
    """Another session changes every account and session without waiting."""
    other = create_engine(mariadb_url)
    with other.begin() as connection:
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        for change in ("users SET quota = quota", "tokens SET status = status", "billing_sessions SET state = state"):
            connection.exec_driver_sql(f"UPDATE {change}")
    other.dispose()


def test_what_locks_and_writes_nothing_leaves_nothing_locked(ledger: Ledger, mariadb_url: str) -> None:
    for _ in range(2):
        hold(ledger, "r1")
    unlocked(mariadb_url)
    for outcome in (Outcome.APPLIED, Outcome.DUPLICATE):
        assert ledger.apply([SettleJob("r1", 60)]) == [outcome]
    unlocked(mariadb_url)


def test_nor_does_it_on_asyncio(ledger: Ledger, mariadb_url: str) -> None:
    async def twice() -> None:
        client = AsyncBillingClient(mariadb_url, NOBODY, Policy(trust_quota=0))
        for _ in range(2):
            await client.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
        await asyncio.to_thread(unlocked, mariadb_url)
        await client.close()

    asyncio.run(twice())


def test_a_call_that_is_cancelled_ends_and_is_not_tried_again(
    ledger: Ledger, mariadb: Engine, mariadb_url: str
) -> None:
    hold(ledger, "r1")

    async def cancel() -> None:
        client = AsyncBillingClient(mariadb_url, NOBODY, Policy(trust_quota=0))
        with mariadb.begin() as blocker:
            blocker.execute(text("SELECT request_id FROM billing_sessions FOR UPDATE"))
            reserving = asyncio.create_task(client.reserve("r1", 500))
            await asyncio.sleep(0.4)
            reserving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(reserving, 2)
        await client.close()

    asyncio.run(cancel())
    assert wallet(mariadb) == WEALTH - 100


def test_an_answer_that_was_not_read_is_not_taken_for_the_next_one(
    ledger: Ledger, mariadb: Engine, mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(ledger, "r1")

    class Interrupted(BaseException):
        pass

    def interrupted(self: object, unbuffered: bool = False) -> None:
        raise Interrupted

    move = Command.of_constant(text("UPDATE users SET quota = quota WHERE id = :id"), id=1)
    with monkeypatch.context() as patch, mariadb.connect() as connection:
        patch.setattr(mysql_connections._Connection, "_read_query_result", interrupted)
        with pytest.raises(Interrupted):
            carried_out(connection, [move])
    ledger.intend([SettleJob("r1", 60)])
    with mariadb.connect() as connection:
        assert connection.execute(text("SELECT intent_quota FROM billing_sessions")).scalar_one() == 60
