"""What must hold after the chaos, held against the diaries of the relays."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, func, select

from relay_billing import Ledger
from relay_billing.schema import billing_sessions, users
from tests.faults.relay import USERS


@dataclass(slots=True)
class Told:
    """What one session's relay was told."""

    settled: int | None = None
    refunded: bool = False


@dataclass(slots=True)
class Verdict:
    """Lost, doubled, and every line about it."""

    sessions: int = 0
    settles: int = 0
    refunds: int = 0
    lost: int = 0
    doubled: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing is wrong at all."""
        return not self.lines


def read(diaries: Iterable[Path]) -> dict[str, Told]:
    """What the relays were told, by request id. A last line may be half written: its relay was killed."""
    told: dict[str, Told] = {}
    for diary in diaries:
        for line in diary.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                # The relay was killed while it wrote.
                continue
            of = told.setdefault(entry["id"], Told())
            if entry["did"] == "settled":
                of.settled = entry["actual"]
            elif entry["did"] == "refunded":
                of.refunded = True
    return told


def unfinished(engine: Engine) -> int:
    """Sessions that are open, or have an intent that was not carried out."""
    c = billing_sessions.c
    ended = c.state.in_(["settled", "refunded"]) | ((c.state == "expired") & c.intent.is_(None))
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).where(~ended)).scalar_one())


def settled(engine: Engine) -> int:
    """How many sessions are settled."""
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).where(billing_sessions.c.state == "settled")).scalar_one())


def owed(engine: Engine, diaries: Iterable[Path]) -> int:
    """As `unfinished`, and settles that are still on their way: those of a hold that has expired meanwhile."""
    c = billing_sessions.c
    with engine.connect() as connection:
        expired = set(connection.execute(select(c.request_id).where(c.state == "expired")).scalars())
    late = sum(each.settled is not None and of in expired for of, each in read(diaries).items())
    return unfinished(engine) + late


def judge(engine: Engine, diaries: Iterable[Path], wealth: int) -> Verdict:
    """Hold the books against what relays were told."""
    told = read(diaries)
    verdict = Verdict()
    c = billing_sessions.c
    with engine.connect() as connection:
        rows = connection.execute(select(c.request_id, c.state, c.actual_quota)).all()
        balances = int(connection.execute(select(func.sum(users.c.quota))).scalar_one())
    found = {row.request_id: (row.state, row.actual_quota) for row in rows}
    verdict.sessions = len(found)
    for of, each in told.items():
        state, actual = found.get(of, ("missing", None))
        if each.settled is not None:
            verdict.settles += 1
            if (state, actual) != ("settled", each.settled):
                verdict.lost += 1
                verdict.lines.append(f"lost: {of} was told to be settled with {each.settled}, is {state} with {actual}")
        elif each.refunded:
            verdict.refunds += 1
            if state not in ("refunded", "expired"):
                verdict.lost += 1
                verdict.lines.append(f"lost: {of} was told to be refunded, is {state}")
    charged = sum(actual or 0 for state, actual in found.values() if state == "settled")
    if balances != USERS * wealth - charged:
        difference = USERS * wealth - charged - balances
        verdict.lines.append(f"wallets: {difference} more was taken than the sessions say")
    drifts = Ledger(engine).reconcile()
    verdict.doubled = len(drifts) + (balances != USERS * wealth - charged)
    verdict.lines += [
        f"drift: {each.what} {each.id} expected {each.expected} found {each.found}" for each in drifts[:20]
    ]
    open_ones = unfinished(engine)
    if open_ones:
        verdict.lines.append(f"held: {open_ones} sessions have not ended")
    letters = [each for each in Ledger(engine).dead_letters() if each.reason not in EXPECTED_LETTERS]
    verdict.lines += [f"dead letter: {each.reason} {each.request_id}: {each.detail}" for each in letters[:20]]
    return verdict


EXPECTED_LETTERS = ("conflict", "unknown_session")
"""A relay that was killed asks again with another id; duplicates posted for what was refused have no session."""
