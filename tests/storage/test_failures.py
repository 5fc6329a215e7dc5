"""What the database does to a transaction: retried a bounded number of times, then one clear error."""

import time

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError

from relay_billing import BillingUnavailable, InvalidRequest, Ledger, Outcome, Policy, SettleJob
from relay_billing.store.drivers import ATTEMPTS, engine_of
from tests.fixtures.accounts import Clock, given, wallet
from tests.fixtures.brokers import free_port

WEALTH = 10_000


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    given(engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    return Ledger(engine, Policy(trust_quota=0), Clock())


def hold(ledger: Ledger, request_id: str = "r1") -> None:
    ledger.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=100)


class LostAnswers:
    """Commits for real, then raises as if the connection had gone before the answer came."""

    def __init__(self, engine: Engine, times: int) -> None:
        self.left = times
        event.listen(engine, "commit", self._commit)

    def _commit(self, connection: Connection) -> None:
        if self.left:
            self.left -= 1
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.commit()
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))


def test_a_commit_whose_answer_was_lost_is_not_done_twice(server: Engine) -> None:
    given(server, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    ledger = Ledger(server, Policy(trust_quota=0), Clock(), fast_paths=False)
    hold(ledger)
    lost = LostAnswers(server, 1)
    assert ledger.reserve("r1", 200).pre_consumed_quota == 200
    assert (lost.left, wallet(server)) == (0, WEALTH - 200)
    lost.left = 1
    assert ledger.apply([SettleJob("r1", 30)]) == [Outcome.DUPLICATE]
    assert wallet(server) == WEALTH - 30
    assert ledger.reconcile() == []


def test_a_database_that_never_takes_it_is_given_up_after_a_bounded_number_of_attempts(server: Engine) -> None:
    given(server, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    ledger = Ledger(server, Policy(trust_quota=0), Clock())
    hold(ledger)
    lost = LostAnswers(server, 1_000)
    with pytest.raises(BillingUnavailable):
        ledger.reserve("r1", 200)
    assert 1_000 - lost.left == ATTEMPTS
    assert wallet(server) == WEALTH - 200


def test_connections_that_the_server_cut_are_made_anew(postgresql: Engine) -> None:
    given(postgresql, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    ledger = Ledger(postgresql, Policy(trust_quota=0), Clock())
    hold(ledger)
    other = create_engine(postgresql.url)
    with other.begin() as connection:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
        connection.execute(text(cut + "pg_backend_pid()"))
    other.dispose()
    assert ledger.apply([SettleJob("r1", 30)]) == [Outcome.APPLIED]


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_what_the_database_aborts_is_tried_again(postgresql: Engine, sqlstate: str) -> None:
    given(postgresql, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    aborted: list[str] = []

    def abort(connection: Connection, *_: object) -> None:
        if len(aborted) < 2:
            aborted.append(sqlstate)
            connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'aborted' USING ERRCODE = '{sqlstate}'; END $$")

    ledger = Ledger(postgresql, Policy(trust_quota=0), Clock())
    hold(ledger)
    event.listen(postgresql, "begin", abort)
    ledger.reserve("r1", 200)
    assert len(aborted) == 2
    assert wallet(postgresql) == WEALTH - 200


def test_a_database_that_is_away_is_unavailable_soon() -> None:
    ledger = Ledger(engine_of(f"postgresql://nobody@127.0.0.1:{free_port()}/none"))
    began = time.monotonic()
    with pytest.raises(BillingUnavailable):
        hold(ledger)
    with pytest.raises(BillingUnavailable):
        ledger.reconcile()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "url", ["mssql://root@127.0.0.1/test", "mysql://root@db1,db2/test", "oracle://x", "not a url", ""]
)
def test_another_database_is_refused_by_the_name_of_the_field(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine_of(url)
    assert refused.value.field == "database_url"


def test_sqlite_keeps_a_write_ahead_log_and_its_foreign_keys(ledger: Ledger, engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        assert engine.dialect.name in ("postgresql", "mysql"), "only SQLite has these"
        return
    hold(ledger)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
