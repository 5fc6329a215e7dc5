"""Nothing is made or imported before it is needed, and what is imported on a thread of its own harms no fork."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.outside import run
from tests.fixtures.workers import ROOT, environment

MADE = """
import sys
from relay_billing import BillingClient
from relay_billing.broker.options import broker_options
url = "filesystem://" + sys.argv[1]
broker_options(url)
client = BillingClient("sqlite:///billing.db", url)
client.close()
"""


def test_a_client_that_posts_nothing_makes_no_folder(tmp_path: Path) -> None:
    done = run((sys.executable, "-c", MADE, str(tmp_path / "made" / "broker")), tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "made").exists()


IMPORTED = """
import sys
import sqlalchemy
import relay_billing
print(*sys.modules, sep="\\n")
print(relay_billing.Ledger, relay_billing.AsyncBillingClient, file=sys.stderr)
"""
NOT_YET = (
    # For posting, and then on a thread of its own.
    "celery",
    "kombu",
    # Of PostgreSQL, and of metrics.
    "psycopg",
    "prometheus_client",
    # Of asyncio.
    "sqlalchemy.ext.asyncio",
    "aiosqlite",
    "relay_billing.aio",
    # What operators do, and the naive way.
    "sqlalchemy.orm",
    "alembic",
    "relay_billing.ledger",
    "relay_billing.migrations",
    "relay_billing.flows.reconcile",
    "relay_billing.flows.overview",
    # One of two databases.
    "relay_billing.store.postgresql",
    "relay_billing.store.sqlite",
    "relay_billing.store.connections",
)
"""What `import relay_billing` does without: each is imported by what needs it, or by asking for its name."""


def test_importing_the_package_imports_nothing_that_a_relay_may_do_without(tmp_path: Path) -> None:
    done = run((sys.executable, "-c", IMPORTED), tmp_path)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert "relay_billing.client" in imported
    assert [name for name in NOT_YET if name in imported] == []


COMMANDS = {
    "config show": (sys.executable, "-m", "worker", "config", "show"),
    "import": (sys.executable, "-c", "import worker.celery"),
    "beat": (sys.executable, "-m", "celery", "-A", "worker", "beat", "--help"),
    "inspect": (sys.executable, "-m", "celery", "-A", "worker", "inspect", "--timeout", "0.1", "ping"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_only_a_worker_that_is_about_to_run_makes_folders_to_count_in(name: str, tmp_path: Path) -> None:
    var, broker = tmp_path / "var", tmp_path / "elsewhere" / "broker"
    env = environment(f"sqlite:///{tmp_path / 'billing.db'}", f"filesystem://{broker}", var, metrics_port=9)
    subprocess.run(COMMANDS[name], env=env, cwd=ROOT, timeout=60, capture_output=True, check=False)
    assert not (var / "metrics").exists()
    if name == "config show":
        assert not broker.parent.exists()


POST = """
import importlib.abc, os, signal, sys, threading
from relay_billing import SettleJob
from relay_billing.broker.publisher import Publisher

begun, forking = threading.Event(), threading.Event()

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        # From the midst of a module of ours.
        if name == "celery.app.amqp" and not begun.is_set():
            print("imported by", threading.current_thread().name, flush=True)
            begun.set()
            forking.wait(FORK)
            # A fork that does not wait happens now.
            threading.Event().wait(FORK / 10)
        return None

assert not [name for name in sys.modules if name == "celery"]
publisher = Publisher("filesystem://" + sys.argv[1], 2)
sys.meta_path.insert(0, Watch())
posted = publisher.post([SettleJob("parent", 1)])
if FORK:
    assert begun.wait(10)
    forking.set()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        ok = publisher.post([SettleJob("child", 2)]).wait(10)
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0, "the child did not post"
assert posted.wait(10)
publisher.close()
"""


def test_celery_is_imported_on_the_publishers_thread(tmp_path: Path) -> None:
    done = run((sys.executable, "-c", POST.replace("FORK", "0"), str(tmp_path / "broker")), tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "imported by relay-billing-publisher"), done.stderr


def test_a_fork_while_celery_is_imported_leaves_a_child_that_posts(tmp_path: Path) -> None:
    done = run((sys.executable, "-c", POST.replace("FORK", "2"), str(tmp_path / "broker")), tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "broker" / "messages").iterdir())) == 2
