"""The tables come and go by migration; what a relay has is never touched."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import BigInteger, Connection, Engine, event, inspect, text

from relay_billing import Ledger, Policy, migrations
from relay_billing.schema import ACCOUNT_TABLES, metadata
from relay_billing.store.drivers import engine_of
from tests.fixtures.accounts import given, wallet
from tests.fixtures.new_api import NEW_API
from tests.fixtures.tables import Tables

OURS = {table for table in metadata.tables if table.startswith("billing_")}


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def test_up_down_and_up_again(empty_url: str) -> None:
    engine = engine_of(empty_url)
    with engine.begin() as connection:
        assert migrations.current(connection) is None
        migrations.upgrade(connection)
        assert migrations.current(connection) == migrations.head()
        assert tables(connection) >= OURS | set(ACCOUNT_TABLES)
    with engine.begin() as connection:
        migrations.downgrade(connection, "0001")
        migrations.downgrade(connection)
        assert tables(connection) & OURS == set()
        assert tables(connection) >= set(ACCOUNT_TABLES)
    with engine.begin() as connection:
        migrations.upgrade(connection)
        migrations.upgrade(connection)
        assert tables(connection) >= OURS
    engine.dispose()


def written(engine: Engine) -> dict[str, list[str]]:
    """How MariaDB would make each table again, whatever the order of its columns."""
    with engine.connect() as connection:
        made = {name: connection.exec_driver_sql(f"SHOW CREATE TABLE {name}").one()[1] for name in metadata.tables}
    return {name: sorted(line.strip(" ,") for line in words.splitlines()) for name, words in made.items()}


def test_migrations_and_metadata_agree(empty_url: str) -> None:
    engine = engine_of(empty_url)
    if engine.dialect.name == "mysql":
        # Virtual columns and their indexes are in no metadata.
        with engine.begin() as connection:
            migrations.upgrade(connection)
        migrated = written(engine)
        metadata.drop_all(engine)
        metadata.create_all(engine)
        assert migrated == written(engine)
        engine.dispose()
        return
    with engine.begin() as connection:
        migrations.upgrade(connection)
        # SQLite gives a default back in other words than it was given.
        defaults = connection.dialect.name == "postgresql"
        options = {
            "version_table": migrations.VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": defaults,
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


class Killed(Exception):
    """The process that migrates is gone."""


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_migration_that_broke_off_is_run_again(mariadb_tables: Tables, mariadb_url: str, way: str) -> None:
    """Before each of its steps in turn: MariaDB has kept the one before."""
    mariadb_tables.drop()
    engine, left = engine_of(mariadb_url), [0]

    def kill(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().startswith(("CREATE", "ALTER", "DROP")):
            left[0] -= 1
            if left[0] == 0:
                raise Killed

    def migrate() -> None:
        with engine.begin() as connection:
            if way == "up":
                migrations.upgrade(connection)
            else:
                migrations.downgrade(connection)

    if way == "down":
        with engine.begin() as connection:
            migrations.upgrade(connection)
    event.listen(engine, "before_cursor_execute", kill)
    for steps in range(200):  # noqa: B007, it is looked at below
        # One step is done, and what follows it until the next.
        left[0] = 2
        try:
            migrate()
        except Killed:
            continue
        break
    event.remove(engine, "before_cursor_execute", kill)
    with engine.connect() as connection:
        assert steps > 20
        assert migrations.current(connection) == (migrations.head() if way == "up" else None)
        assert tables(connection) & OURS == (OURS if way == "up" else set())
    engine.dispose()


def test_account_tables_that_are_there_are_kept_with_all_they_hold(empty_url: str) -> None:
    engine = engine_of(empty_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE users (id BIGINT PRIMARY KEY, username VARCHAR(20), password TEXT, quota BIGINT,"
                " used_quota BIGINT DEFAULT 0, request_count BIGINT DEFAULT 0, aff_code VARCHAR(32))"
            )
        )
        connection.execute(text("INSERT INTO users (id, username, quota, aff_code) VALUES (1, 'ann', 500, 'x1')"))
        migrations.upgrade(connection)
    given(engine, token=[{"id": 1, "user_id": 1, "remain_quota": 500}])
    Ledger(engine, Policy(trust_quota=0)).pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
    assert wallet(engine) == 400
    with engine.begin() as connection:
        migrations.downgrade(connection)
        assert tuple(connection.execute(text("SELECT quota, aff_code FROM users")).one()) == (400, "x1")
    engine.dispose()


def test_money_is_64_bits_wide_everywhere(engine: Engine) -> None:
    with engine.connect() as connection:
        kinds = {
            f"{table}.{column['name']}": column["type"]
            for table in metadata.tables
            for column in inspect(connection).get_columns(table)
        }
    words = ("quota", "amount", "consumed", "balance", "delta")
    not_money = {"tokens.unlimited_quota", "subscription_plans.quota_reset_period"}
    money = {name for name in kinds if any(word in name.partition(".")[2] for word in words)} - not_money
    assert {"users.quota", "tokens.remain_quota", "billing_ledger.amount", "billing_dead_letters.quota"} <= money
    assert {name for name in money if not isinstance(kinds[name], BigInteger)} == set()


def test_open_sessions_by_age_are_found_through_an_index_of_open_ones_alone(postgresql: Engine) -> None:
    given(postgresql, user=[{"id": 1, "quota": 10**9}], token=[{"id": 1, "user_id": 1, "remain_quota": 10**9}])
    with postgresql.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        query = (
            "EXPLAIN SELECT request_id FROM billing_sessions "
            "WHERE state = 'preconsumed' AND expires_at < 5 ORDER BY expires_at LIMIT 500"
        )
        plan = "\n".join(row[0] for row in connection.execute(text(query)))
    assert "ix_billing_sessions_open" in plan
    with postgresql.connect() as connection:
        definition = "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_billing_sessions_open'"
        assert "WHERE ((state)::text = 'preconsumed'::text)" in connection.execute(text(definition)).scalar_one()


def test_a_relays_own_tables_keep_their_storage(postgresql_url: str, postgresql_tables: Tables) -> None:
    postgresql_tables.drop()
    engine = engine_of(postgresql_url)
    NEW_API.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tokens SET (fillfactor = 85)"))
        options = text(
            "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND relname = ANY(:names) ORDER BY 1"
        )
        names = {"names": list(NEW_API.tables)}
        before = connection.execute(options, names).all()
        migrations.upgrade(connection)
        assert connection.execute(options, names).all() == before
        migrations.downgrade(connection)
        assert connection.execute(options, names).all() == before
    engine.dispose()


def test_an_uninstall_that_was_cut_off_can_be_run_again_and_leaves_accounts_alone(empty_url: str) -> None:
    engine = engine_of(empty_url)
    with engine.begin() as connection:
        migrations.upgrade(connection)
        there = migrations.installed(connection)
        assert set(there) == OURS | {migrations.VERSION_TABLE}
        assert migrations.complete(there)
        connection.execute(text(f"DROP TABLE {there[0]}"))
    given(engine, user=[{"id": 1, "quota": 500}])
    with engine.begin() as connection:
        assert not migrations.complete(migrations.installed(connection))
        assert migrations.uninstall(connection) == there[1:]
        assert tables(connection) == set(ACCOUNT_TABLES)
    assert wallet(engine) == 500
    with engine.begin() as connection:
        assert migrations.uninstall(connection) == ()
        migrations.upgrade(connection)
        assert migrations.complete(migrations.installed(connection))
    engine.dispose()
