"""SQLite finds ids by its indexes, whatever the number of rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Select
from sqlalchemy.dialects import sqlite

from relay_billing.schema import metadata
from relay_billing.store import statements
from relay_billing.store.drivers import engine_of

LOADS = [name for name, each in vars(statements).items() if name.isupper() and isinstance(each, Select)]
ALL_OF_IT = ("PLANS",)
"""Asked for whole, or with conditions of their own."""


@pytest.mark.parametrize("name", [each for each in LOADS if not each.startswith("_") and each not in ALL_OF_IT])
def test_no_load_scans_a_table(name: str, tmp_path: Path) -> None:
    statement: Select[Any] = getattr(statements, name)
    compiled = statement.compile(dialect=sqlite.dialect())
    given = {"ids": json.dumps([1, 2]), "now": 1}
    parameters = tuple(given.get(each, compiled.params.get(each)) for each in compiled.positiontup or ())
    engine = engine_of(f"sqlite:///{tmp_path / 'billing.db'}")
    metadata.create_all(engine)
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", parameters).all()
    engine.dispose()
    scans = [row[3] for row in plan if row[3].startswith("SCAN") and "json_each" not in row[3]]
    assert scans == []
