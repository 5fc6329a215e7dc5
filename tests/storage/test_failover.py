"""A server that no longer serves, whatever it says: the same transaction succeeds on a connection made after that."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url

from relay_billing import (
    AsyncBillingClient,
    BillingClient,
    BillingUnavailable,
    InvalidRequest,
    Ledger,
    Outcome,
    Policy,
    SettleJob,
    UpdateDataError,
)
from relay_billing.domain.sessions import BillingSession
from relay_billing.store import failures
from relay_billing.store.drivers import ATTEMPTS, engine_of, shown, url_of
from tests.fixtures.accounts import Clock, given, wallet
from tests.fixtures.brokers import free_port

WEALTH = 10_000
POLICY = Policy(trust_quota=0)
KEPT = 4
"""Connections of the pool that were made before the failure."""
AFRESH = ("08006", "25006", "26000", "42P05", "57P01", "57P02", "57P03")
AGAIN = ("40001", "40P01", "53300", "55P03", "57014", "58030")
FAILING = """
CREATE SEQUENCE failed;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A sequence knows of the failures that were rolled back.
    IF nextval('failed') <= {times} THEN RAISE EXCEPTION 'not here' USING ERRCODE = '{state}'; END IF;
    RETURN NEW;
END $$;
"""
AT_ONCE = "CREATE TRIGGER fails BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION fail()"
AT_COMMIT = """CREATE CONSTRAINT TRIGGER fails AFTER INSERT OR UPDATE ON {table}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"""


@pytest.fixture
def engine(postgresql: Engine, postgresql_url: str) -> Iterator[Engine]:
    given(postgresql, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    made = engine_of(postgresql_url)
    yield made
    made.dispose()
    with postgresql.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS fail CASCADE")
        connection.exec_driver_sql("DROP SEQUENCE IF EXISTS failed")


def failing(engine: Engine, state: str, times: int, how: str, table: str = "billing_sessions") -> None:
    """Have writes to a table fail in a state, so many times."""
    with engine.begin() as connection:
        connection.exec_driver_sql(FAILING.format(state=state, times=times))
        connection.exec_driver_sql(how.format(table=table))


def fill(engine: Engine, read_only: bool = False) -> set[int]:
    """Have the pool keep some connections; return their servers' process ids."""
    made = [engine.connect() for _ in range(KEPT)]
    pids = set()
    for connection in made:
        pids.add(int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()))
        if read_only:
            connection.exec_driver_sql("SET default_transaction_read_only = on")
        connection.commit()
        connection.close()
    assert len(pids) == KEPT
    return pids


def kept(engine: Engine) -> set[int]:
    """The server processes of as many connections as the pool had."""
    return fill(engine)


def hold(ledger: Ledger) -> BillingSession:
    return ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)


def settle(ledger: Ledger) -> None:
    assert ledger.apply([SettleJob("r1", 30)])[0] in (Outcome.APPLIED, Outcome.DUPLICATE)


@pytest.mark.parametrize("how", [AT_ONCE, AT_COMMIT], ids=["at its statement", "at the commit"])
@pytest.mark.parametrize("state", AFRESH)
def test_a_settle_succeeds_on_a_fresh_connection(postgresql: Engine, engine: Engine, state: str, how: str) -> None:
    ledger = Ledger(engine, POLICY, Clock())
    hold(ledger)
    old = fill(engine)
    failing(postgresql, state, 1, how)
    settle(ledger)
    assert kept(engine) & old == set()
    assert wallet(engine) == WEALTH - 30
    assert ledger.reconcile() == []


@pytest.mark.parametrize("state", AFRESH)
def test_a_hold_that_is_taken_in_one_statement_succeeds_on_a_fresh_connection(
    postgresql: Engine, engine: Engine, state: str
) -> None:
    ledger = Ledger(engine, POLICY, Clock())
    old = fill(engine)
    # The statement that commits itself fails, then the general path.
    failing(postgresql, state, 2, AT_ONCE)
    assert hold(ledger).pre_consumed_quota == 100
    assert kept(engine) & old == set()
    assert wallet(engine) == WEALTH - 100


def test_what_sqlalchemy_executes_itself_succeeds_on_a_fresh_connection(postgresql: Engine, engine: Engine) -> None:
    ledger = Ledger(engine, POLICY, Clock())
    old = fill(engine)
    failing(postgresql, failures.READ_ONLY, 1, AT_ONCE, "users")
    ledger.top_up(user_id=1, quota=500, reference="order-1")
    assert kept(engine) & old == set()
    assert wallet(engine) == WEALTH + 500


@pytest.mark.parametrize("how", [AT_ONCE, AT_COMMIT], ids=["at its statement", "at the commit"])
def test_an_async_client_goes_on_with_fresh_connections(
    postgresql: Engine, engine: Engine, postgresql_url: str, tmp_path: Path, how: str
) -> None:
    failing(postgresql, failures.STATEMENT_UNKNOWN, 2, how)

    async def relay() -> None:
        client = AsyncBillingClient(postgresql_url, f"filesystem://{tmp_path / 'broker'}", POLICY)
        held = await client.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
        raised = await held.reserve(200)
        await raised.settle(30)
        await client.close()

    asyncio.run(relay())
    settle(Ledger(engine, POLICY))
    assert wallet(engine) == WEALTH - 30


def test_connections_to_a_server_that_only_reads_are_left(engine: Engine) -> None:
    ledger = Ledger(engine, POLICY, Clock())
    old = fill(engine, read_only=True)
    hold(ledger)
    assert kept(engine) & old == set()


@pytest.mark.parametrize("state", AGAIN)
def test_what_passes_is_tried_again_on_the_connections_that_there_are(
    postgresql: Engine, engine: Engine, state: str
) -> None:
    ledger = Ledger(engine, POLICY, Clock())
    hold(ledger)
    old = fill(engine)
    failing(postgresql, state, 2, AT_ONCE)
    settle(ledger)
    assert kept(engine) == old


@pytest.mark.parametrize("state", ["23514", "42501", "22003", "P0001"])
def test_what_no_attempt_mends_is_not_tried_again(postgresql: Engine, engine: Engine, state: str) -> None:
    ledger = Ledger(engine, POLICY, Clock())
    hold(ledger)
    failing(postgresql, state, 1_000, AT_ONCE)
    with pytest.raises(UpdateDataError, match="not here"):
        settle(ledger)
    # The fast path once, then the general path; an IntegrityError may be a replay that was not there yet.
    assert tried(postgresql) == 1 + (ATTEMPTS if state.startswith("23") else 1)


def test_a_server_that_stays_read_only_is_unavailable(postgresql: Engine, engine: Engine) -> None:
    ledger = Ledger(engine, POLICY, Clock())
    hold(ledger)
    failing(postgresql, failures.READ_ONLY, 1_000, AT_ONCE)
    with pytest.raises(BillingUnavailable, match="not here"):
        settle(ledger)
    assert tried(postgresql) == 1 + ATTEMPTS


def tried(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT last_value FROM failed").scalar_one())


def several(url: str, form: str) -> str:
    """The same database as the second of two hosts, of which the first is away."""
    parts = make_url(url)
    there, away = f"{parts.host}:{parts.port or 5432}", f"127.0.0.1:{free_port()}"
    if form == "libpq":
        return f"postgresql://{parts.username}@{away},{there}/{parts.database}?target_session_attrs=read-write"
    hosts = f"host={away}&host={there}"
    return f"postgresql://{parts.username}@/{parts.database}?{hosts}&target_session_attrs=read-write"


@pytest.mark.parametrize("form", ["SQLAlchemy", "libpq"])
def test_clients_and_workers_find_the_primary_among_several_hosts(
    engine: Engine, postgresql_url: str, tmp_path: Path, form: str
) -> None:
    url = several(postgresql_url, form)
    client = BillingClient(url, f"filesystem://{tmp_path / 'broker'}", POLICY)
    client.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100).settle(30)
    client.close()

    async def relay() -> None:
        awaited = AsyncBillingClient(url, f"filesystem://{tmp_path / 'broker'}", POLICY)
        await awaited.pre_consume(request_id="r2", user_id=1, token_id=1, quota=100)
        await awaited.close()

    asyncio.run(relay())
    made = engine_of(url)
    settle(Ledger(made, POLICY))
    made.dispose()
    assert wallet(engine) == WEALTH - 30 - 100


@pytest.mark.parametrize(
    ("given_url", "query"),
    [
        ("postgresql://u:p@h1:5432,h2:5433/b", {"host": "h1,h2", "port": "5432,5433"}),
        ("postgresql://h1,h2:5433/b", {"host": "h1,h2", "port": "5432,5433"}),
        ("postgresql://u@[::1],h2/b?sslmode=require", {"host": "::1,h2", "port": "5432,5432", "sslmode": "require"}),
        ("postgresql://u@/b?host=h1:1&host=h2:2", {"host": ("h1:1", "h2:2")}),
    ],
)
def test_hosts_are_read_as_libpq_reads_them(given_url: str, query: dict[str, object]) -> None:
    assert dict(url_of(given_url).query) == query
    assert "p@" not in shown(given_url)


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql://h1:x,h2/b",
        "postgresql://h1,h2/b?host=h3",
        "postgresql://h/b?statement_timeout=0",
        "postgresql://h/b?statement_timeout=soon",
        "postgresql://h/b?call_timeout=-1",
        "postgresql://h/b?call_timeout=1&call_timeout=2",
        "sqlite:///b.db?statement_timeout=1",
    ],
)
def test_a_url_that_cannot_be_is_refused_by_the_name_of_the_field(wrong: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine_of(wrong)
    assert refused.value.field == "database_url"


@pytest.mark.parametrize(
    ("said", "name", "value"),
    [
        ("", "tcp_user_timeout", "10000"),
        ("?tcp_user_timeout=99", "tcp_user_timeout", "99"),
        ("?keepalives_idle=77", "keepalives_idle", "77"),
        ("?connect_timeout=9", "connect_timeout", "9"),
        ("?application_name=mine", "application_name", "mine"),
    ],
)
def test_what_the_url_says_to_libpq_wins(postgresql_url: str, said: str, name: str, value: str) -> None:
    engine = engine_of(postgresql_url + said)
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        assert raw.info.get_parameters()[name] == value
    engine.dispose()


@pytest.mark.parametrize(
    ("said", "shown_by_server"),
    [("", "10s"), ("?statement_timeout=1.5", "1500ms"), ("?options=-c%20statement_timeout%3D3s", "3s")],
)
def test_the_server_is_told_how_long_a_statement_may_take(postgresql_url: str, said: str, shown_by_server: str) -> None:
    engine = engine_of(postgresql_url + said)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == shown_by_server
    engine.dispose()
