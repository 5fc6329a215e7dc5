"""`python -m worker demo`, as a stranger runs it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.fixtures.outside import environment, heed_interrupts, interrupt, run, working_in
from tests.fixtures.waiting import until
from tests.fixtures.workers import ROOT

DEMO = (sys.executable, "-m", "worker", "demo")


def linked(folder: Path) -> Path:
    """A checkout of its own: the demo works in ./var."""
    for name in ("config", "tasks", "worker"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_the_demo_accounts_for_every_unit_and_reconcile_agrees_afterwards(tmp_path: Path) -> None:
    checkout = linked(tmp_path)
    done = run((*DEMO, "--requests", "150"), checkout, timeout_s=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in ("subscriber", "trusted", "almost empty", "no drift"):
        assert word in done.stdout
    assert working_in(checkout) == []
    # The next one leaves the first one's rows in place, and prints the same as JSON.
    again = run((*DEMO, "--requests", "20", "--json"), checkout, timeout_s=60)
    told = json.loads(again.stdout)
    assert (again.returncode, told["balanced"], told["unaccounted"], told["drifts"]) == (0, True, {}, [])
    assert sum(counts["requests"] for counts in told["counts"].values()) == 20
    proved = run((sys.executable, "-m", "worker", "reconcile"), checkout)
    assert (proved.returncode, proved.stdout.strip()) == (0, "no drift: every account and every session adds up")


def test_an_interrupted_demo_ends_what_it_started(tmp_path: Path) -> None:
    checkout = linked(tmp_path)
    process = subprocess.Popen(
        DEMO,
        cwd=checkout,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    until((checkout / "var" / "worker.heartbeat").exists, 40, "the demo's worker ready")
    assert len(working_in(checkout)) > 2
    interrupt(process)
    said, _ = process.communicate(timeout=40)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "stopped; the demo's worker and beat are ended"
    until(lambda: not working_in(checkout), 20, "all processes ended")
