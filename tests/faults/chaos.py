"""Breaks everything at random, waits, mends nothing, then proves every balance.

`python -m tests.faults.chaos --seconds 120 --seed 7 --database mariadb --broker redis --relays mix`
"""

import argparse
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from relay_billing.domain.choices import Durability
from tasks.base import OUTAGE_PATIENCE_S
from tasks.job_task import BACKOFF_S
from tests.faults.databases import DATABASES
from tests.faults.faults import Fault, Faults
from tests.faults.queue import waiting
from tests.faults.relay import HOLD_TTL_S
from tests.faults.relays import MIXES
from tests.faults.site import CALL_TIMEOUT_S, SETTINGS, WEALTH, Site
from tests.faults.verdict import Verdict, judge, owed, settled
from tests.fixtures.waiting import until
from worker.process.watch import LOOK_EVERY_S as LOOKS_EVERY_S
from worker.process.watch import SILENT_SWEEPS

PAUSE_S = (1.0, 3.0)
START_TIMEOUT_S = 60
RESTORE_S = 2
"""Seconds between kombu's looks for what a lost worker had (`unacked_restore_interval`)."""
LONGEST_RECONNECT_PAUSE_S = 30
"""Seconds between two tries of a worker, or beat, to reach its broker, after a long outage (kombu's `interval_max`)."""
LONGEST_HTTP_CALL_S = 10
"""Of a relay in Go, with its repetitions; one in Python has fewer."""
SETTLED_WITHIN_S = (
    LONGEST_HTTP_CALL_S
    + CALL_TIMEOUT_S
    + HOLD_TTL_S
    + LONGEST_RECONNECT_PAUSE_S
    + SETTINGS["visibility_timeout"]
    + RESTORE_S
    + OUTAGE_PATIENCE_S
    + sum(BACKOFF_S[: SETTINGS["unknown_session_retries"]])
    + SETTINGS["intent_grace"]
    + 2 * SETTINGS["sweep_interval"]
    + SILENT_SWEEPS * SETTINGS["sweep_interval"]
    + 2 * LOOKS_EVERY_S
)
"""Seconds after the last fault in which the accounts must be right. Each wait that a setting allows comes once, one by
one: relays end their last call, holds expire, workers and beat reach the broker, a lost worker's message comes
back, finds the database away, then its session, and the second sweep applies what has none, for the first was lost.
Before that, workers may have found that they get no messages."""
LOOK_EVERY_S = 0.25


class Chaos:
    """One run: faults, then waiting."""

    def __init__(self, site: Site, log: Callable[[str], None]) -> None:
        self.site, self.log = site, log
        self.chance = random.Random(site.seed)
        # Of its own: how often it is asked depends on how much there is, and which faults come must not.
        self.faults = Faults(site, random.Random(f"{site.seed}-within"), log)
        self.ended_by_itself = 0
        self.settled_after_s: float | None = None
        """Seconds from the last fault until the accounts were right; None: they were not, in time."""
        self.hanging: list[str] = []
        """Relays that were asked to end, and did not."""

    def run(self, seconds: float) -> None:
        """Break things for so long. Last the broker loses its memory; where it may not, it is killed."""
        ends = time.monotonic() + seconds
        last = self.chance.choice(self.faults.forgetting or [self.faults.kill_broker])
        weights, faults = zip(*self.faults.weighed, strict=True)
        while time.monotonic() < ends:
            self._break(self.chance.choices(faults, weights)[0])
        self._break(last)

    def _break(self, fault: Fault) -> None:
        time.sleep(self.chance.uniform(*PAUSE_S))
        self.faults.wake()
        self.log(fault.__name__)
        self.faults.make(fault)
        self._supervise()

    def _supervise(self) -> None:
        ended = self.site.supervise()
        for name in ended:
            self.log(f"{name} had ended by itself")
        self.ended_by_itself += len(ended)

    def settle(self) -> None:
        """Ask relays to end, and wait until every session has. Nothing is restarted for it."""
        last = time.monotonic()
        self.faults.wake(everybody=True)
        relays = {member.name: self.site.members.pop(member.name) for member in self.site.named("relay")}
        for relay in relays.values():
            relay.send(signal.SIGTERM)
        pause = threading.Event()
        while not all(relay.ended for relay in relays.values()) or not self._right():
            if time.monotonic() - last > SETTLED_WITHIN_S:
                break
            pause.wait(LOOK_EVERY_S)
            self._supervise()
        else:
            self.settled_after_s = time.monotonic() - last
        # Nothing of it is left to write while the accounts are judged.
        self.hanging = [name for name, relay in relays.items() if not relay.ended]
        for relay in relays.values():
            relay.kill()

    def _right(self) -> bool:
        # What waits in the queue could still move something.
        return not owed(self.site.engine, self.site.diaries) and waiting(self.site.broker) == 0

    def judged(self) -> Verdict:
        """The verdict, with the time that it took as a part of it."""
        verdict = judge(self.site.engine, self.site.diaries, WEALTH)
        if self.settled_after_s is None:
            left, queued = owed(self.site.engine, self.site.diaries), waiting(self.site.broker)
            rest = f"{left} sessions, {queued} messages, relays that do not end: {self.hanging}"
            verdict.lines.append(f"not settled within {SETTLED_WITHIN_S:.0f} s of the last fault: {rest}")
        return verdict


def table(chaos: Chaos, verdict: Verdict, seconds: float) -> Table:
    """The run on one screen."""
    site = chaos.site
    relays, servers = ", ".join(site.relays), f"{site.database_name}, {site.broker_name}"
    title = f"{servers}, {site.durability.value}, relays {relays}, {seconds:.0f} s, seed {site.seed}"
    shown = Table("what", title=title, box=box.SIMPLE_HEAD)
    shown.add_column("count", justify="right")
    told = {"sessions": verdict.sessions, "settles told": verdict.settles, "refunds told": verdict.refunds}
    told |= {"calls given up": verdict.given_up, "calls refused": verdict.refused}
    outcome = {"ended by itself": chaos.ended_by_itself, "lost": verdict.lost, "doubled": verdict.doubled}
    for part in (told, dict(sorted(chaos.faults.done.items())), outcome):
        for what, count in part.items():
            shown.add_row(what, f"{count:,}")
        shown.add_section()
    after = "never" if chaos.settled_after_s is None else f"{chaos.settled_after_s:.1f}"
    shown.add_row("settled, seconds after the last fault", after)
    return shown


def play(site: Site, seconds: float, log: Callable[[str], None]) -> tuple[Chaos, Verdict]:
    """Start everything, break it, wait, judge."""
    chaos = Chaos(site, log)
    try:
        site.start()
        # Not into the making of the queue: RabbitMQ 3.10, killed then, has one that nobody can use (docs/runbook.md).
        until(lambda: settled(site.engine) > 0, START_TIMEOUT_S, "the first settle applied")
        chaos.run(seconds)
        log("nothing is broken any more")
        chaos.settle()
        if chaos.settled_after_s is not None:
            log(f"settled {chaos.settled_after_s:.1f} s after the last fault, {SETTLED_WITHIN_S:.0f} are allowed")
        return chaos, chaos.judged()
    finally:
        site.stop()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--database", choices=list(DATABASES), default="postgresql")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--durability", type=Durability, choices=list(Durability), default=Durability.DATABASE)
    parser.add_argument("--relays", choices=list(MIXES), default="mix")
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    console = Console()
    console.print(f"seed {seed}: give it again with SEED={seed}")
    folder = Path(tempfile.mkdtemp(prefix="billing-chaos-"))
    folder.chmod(0o755)
    began = time.monotonic()

    def log(words: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f}  {words}", highlight=False)

    site = Site(
        folder,
        options.broker,
        seed,
        durability=options.durability,
        relays=MIXES[options.relays],
        database_name=options.database,
    )
    chaos, verdict = play(site, options.seconds, log)
    console.print(table(chaos, verdict, options.seconds))
    for line in verdict.lines:
        console.print(line, highlight=False, soft_wrap=True)
    if verdict.good:
        shutil.rmtree(folder)
        return 0
    console.print(f"the logs are in {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
