"""`uninstall` as operators type it, in-process: no money that is open is lost, and nothing of anybody else."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect
from typer.testing import CliRunner, Result

from relay_billing import Ledger, Policy, SettleJob
from relay_billing.schema import ACCOUNT_TABLES
from tests.fixtures.accounts import given, wallet
from tests.fixtures.typed import named_by_settings
from worker.cli import app


@pytest.fixture
def migrated(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    with named_by_settings(empty_url, tmp_path, monkeypatch, 160) as engine:
        given(engine, user=[{"id": 1, "quota": 1_000}], token=[{"id": 1, "user_id": 1, "remain_quota": 1_000}])
        yield engine


def typed(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ("uninstall", *words), input=answer)


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_it_is_refused_while_money_is_open_and_then_asks_and_drops_ours_alone(migrated: Engine) -> None:
    before = tables(migrated)
    ledger = Ledger(migrated, Policy(trust_quota=0))
    ledger.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
    refused = typed("--yes")
    assert refused.exit_code == 2
    assert "there are 1 open holds of 100 ($0.000200): nothing was dropped" in refused.stderr
    ledger.apply([SettleJob("r1", 70)])
    declined = typed(answer="n\n")
    assert declined.exit_code == 1
    assert "balances stay" in declined.stderr
    assert tables(migrated) == before
    done = typed(answer="y\n")
    assert done.exit_code == 0, done.output
    assert tables(migrated) == set(ACCOUNT_TABLES)
    assert wallet(migrated) == 930
    again = typed("--yes")
    assert (again.exit_code, "has no table of ours" in again.stderr) == (2, True)


def test_one_that_was_cut_off_goes_on_without_asking(migrated: Engine) -> None:
    with migrated.begin() as connection:
        connection.exec_driver_sql("DROP TABLE billing_sessions")
    done = json.loads(typed("--json").stdout)
    assert "billing_ledger" in done["dropped"]
    assert done["dropped"][-1] == "billing_alembic_version"
    assert tables(migrated) == set(ACCOUNT_TABLES)
