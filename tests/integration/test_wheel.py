"""The wheel in a clean environment of a relay that has modules called `config` and `tasks` itself."""

import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fixtures.outside import run
from tests.fixtures.workers import ROOT

RELAY = """
from importlib.util import find_spec
import config, tasks
from relay_billing import AsyncBillingClient, BillingClient
assert not any(find_spec(name) for name in ("alembic", "pydantic", "psycopg", "worker"))
assert (config.MINE, tasks.MINE) == (True, True)
from sqlalchemy import create_engine
from relay_billing.schema import metadata, users, tokens
engine = create_engine("sqlite:///relay.db")
metadata.create_all(engine)
with engine.begin() as connection:
    connection.execute(users.insert().values(id=1, quota=1000))
    connection.execute(tokens.insert().values(id=1, user_id=1, key="k", remain_quota=1000))
billing = BillingClient("sqlite:///relay.db", "filesystem://broker")
with billing.session(request_id="r1", user_id=1, token_id=1, quota=100) as session:
    session.settle(40)
billing.close()
print("held", session.pre_consumed_quota)
"""


@pytest.mark.timeout(180)
def test_the_wheel_holds_relay_billing_alone_and_works_beside_other_modules(tmp_path: Path) -> None:
    # Where the build backend is at hand, nothing is fetched for it.
    isolation = ("--no-isolation",) if find_spec("hatchling") else ()
    command = (sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", str(tmp_path), str(ROOT))
    built = run(command, tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"relay_billing"}
    assert {"relay_billing/py.typed", "relay_billing/migrations/env.py"} <= set(names)
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    install = (python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    installed = run(install, tmp_path)
    assert installed.returncode == 0, installed.stderr
    relay = tmp_path / "relay"
    relay.mkdir()
    for name in ("config", "tasks"):
        (relay / f"{name}.py").write_text("MINE = True\n")
    (relay / "relay.py").write_text(RELAY)
    done = run((python, "relay.py"), relay)
    assert (done.returncode, done.stdout.strip()) == (0, "held 100"), done.stderr
