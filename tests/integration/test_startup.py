"""A process that can't work says why in one line, and ends."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relay_billing import migrations
from relay_billing.store.drivers import engine_of
from tests.fixtures.brokers import free_port
from tests.fixtures.workers import CELERY, ROOT, environment
from worker.cli import app

COMMANDS = {
    "worker": (*CELERY, "worker", "-Q", "billing"),
    "beat": (*CELERY, "beat"),
    "migrate": (sys.executable, "-m", "worker", "migrate"),
    "reconcile": (sys.executable, "-m", "worker", "reconcile"),
    "health": (sys.executable, "-m", "worker", "health"),
}
# Whether a process lives has nothing to do with the database.
NEED_DATABASE = [name for name in COMMANDS if name != "health"]
SETTINGS = [
    ({"hold_ttl": "soon"}, "BILLING_HOLD_TTL"),
    ({"trust_quota": -1}, "BILLING_TRUST_QUOTA"),
    ({"hold_expiry": "keep"}, "BILLING_HOLD_EXPIRY"),
    ({"timezone": "Mars/Olympus"}, "BILLING_TIMEZONE"),
    ({"broker_url": "kafka://secret@host"}, "BILLING_BROKER_URL"),
    ({"database_url": "mysql://root:secret@host/x"}, "BILLING_DATABASE_URL"),
    ({"database_url": "no url"}, "BILLING_DATABASE_URL"),
    ({"database_url": "postgresql://u:secret@host:port/x"}, "BILLING_DATABASE_URL"),
    ({"broker_url": "redis://:secret@[host/0"}, "BILLING_BROKER_URL"),
    ({"broker_url": "filesystem:///proc/none"}, "BILLING_BROKER_URL"),
    ({"database_url": "sqlite:////proc/none/x.db"}, "BILLING_DATABASE_URL"),
    ({"var_dir": "/proc/none"}, "BILLING_VAR_DIR"),
    ({"database_url": "postgresql://127.0.0.1:1/x?user=u&password=secret"}, "BILLING_DATABASE_URL"),
]


def given(folder: Path, **settings: object) -> dict[str, str]:
    """An environment in which all is well but for these settings."""
    values: dict[str, object] = {
        "database_url": f"sqlite:///{folder / 'billing.db'}",
        "broker_url": f"filesystem://{folder / 'broker'}",
        **settings,
    }
    var = Path(str(values.pop("var_dir", folder / "var")))
    return environment(str(values.pop("database_url")), str(values.pop("broker_url")), var, **values)


def refused(command: str, folder: Path, **settings: object) -> str:
    """Run a command that must not work; return the one line that it says."""
    env = given(folder, **settings)
    done = subprocess.run(COMMANDS[command], env=env, cwd=ROOT, timeout=60, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("relay-billing: ")]
    assert done.returncode == 2, done
    assert len(said) == 1, done.stderr
    # Celery has its own to say, of being root for example.
    assert "celery" in COMMANDS[command] or done.stderr.splitlines() == said
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stdout + done.stderr
    return said[0]


@pytest.mark.parametrize(("settings", "name"), SETTINGS)
def test_a_wrong_setting_is_refused_by_its_name(
    settings: dict[str, object], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in given(tmp_path, **settings).items():
        monkeypatch.setenv(key, value)
    done = CliRunner().invoke(app, ["reconcile"])
    said = done.output.splitlines()
    assert (done.exit_code, len(said)) == (2, 1), done.output
    assert name in said[0]
    assert "secret" not in said[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_wrong_setting(command: str, tmp_path: Path) -> None:
    assert "BILLING_HOLD_TTL" in refused(command, tmp_path, hold_ttl="soon")


@pytest.mark.parametrize("command", NEED_DATABASE)
def test_a_database_that_is_away_is_named_without_its_password(command: str, tmp_path: Path) -> None:
    url = f"postgresql://billing:secret@127.0.0.1:{free_port()}/billing"
    assert "BILLING_DATABASE_URL" in refused(command, tmp_path, database_url=url)


@pytest.mark.parametrize("command", ["worker", "beat", "reconcile"])
def test_a_missing_migration_is_named_with_the_command_that_runs_it(command: str, tmp_path: Path) -> None:
    engine = engine_of(f"sqlite:///{tmp_path / 'billing.db'}")
    with engine.begin() as connection:
        migrations.upgrade(connection, "0001")
    engine.dispose()
    line = refused(command, tmp_path)
    assert "0001" in line
    assert "python -m worker migrate" in line
