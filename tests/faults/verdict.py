"""What must hold after the chaos, held against the diaries of the relays."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, func, select

from relay_billing import Ledger
from relay_billing.flows import dead_letters
from relay_billing.flows.dead_letters import Filter
from relay_billing.schema import billing_sessions
from tests.faults.proof import drifts

SHOWN = 20
"""Lines about one kind of trouble; what is counted is counted all the same."""
EXPECTED_LETTERS = ("conflict", "unknown_session")
"""A relay that was killed asks again with another id; duplicates posted for what was refused have no session."""


@dataclass(slots=True)
class Told:
    """What one session's relay was told."""

    settled: int | None = None
    refunded: bool = False
    refused: str | None = None
    gave_up: bool = False


@dataclass(slots=True)
class Verdict:
    """Lost, doubled, and every line about it."""

    sessions: int = 0
    settles: int = 0
    refunds: int = 0
    given_up: int = 0
    refused: int = 0
    lost: int = 0
    doubled: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing is wrong at all."""
        return not self.lines

    def some(self, lines: Iterable[str]) -> int:
        """Keep the first few of one kind; return how many there are."""
        kind = list(lines)
        self.lines += kind[:SHOWN]
        return len(kind)


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
            elif entry["did"] == "refused":
                of.refused = entry["error"]
            elif entry["did"] == "gave up":
                of.gave_up = True
    return told


def promised(diaries: Iterable[Path]) -> int:
    """Settles that returned."""
    return sum(each.settled is not None for each in read(diaries).values())


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


def in_state(engine: Engine, state: str) -> set[str]:
    """The request ids of sessions in this state."""
    c = billing_sessions.c
    with engine.connect() as connection:
        return set(connection.execute(select(c.request_id).where(c.state == state)).scalars())


def owed(engine: Engine, diaries: Iterable[Path]) -> int:
    """As `unfinished`, and settles that are still on their way: those of a hold that has expired meanwhile."""
    expired = in_state(engine, "expired")
    late = sum(each.settled is not None and of in expired for of, each in read(diaries).items())
    return unfinished(engine) + late


def judge(engine: Engine, diaries: Iterable[Path], wealth: int) -> Verdict:
    """Compare the accounts with what relays were answered."""
    told = read(diaries)
    verdict = Verdict()
    c = billing_sessions.c
    with engine.connect() as connection:
        rows = connection.execute(select(c.request_id, c.state, c.actual_quota)).all()
    found = {row.request_id: (row.state, row.actual_quota) for row in rows}
    verdict.sessions = len(found)
    verdict.settles = sum(each.settled is not None for each in told.values())
    verdict.refunds = sum(each.refunded for each in told.values())
    verdict.given_up = sum(each.gave_up for each in told.values())
    refusals = Counter(each.refused for each in told.values() if each.refused)
    verdict.refused = refusals.total()
    verdict.some(f"refused {count} times: {error}" for error, count in refusals.most_common())
    verdict.lost = verdict.some(_losses(told, found))
    verdict.doubled = verdict.some(drifts(engine, wealth))
    # The product's own proof is asked last, and decides nothing: it must be of one mind with ours.
    verdict.some(f"reconcile: {each.what} {each.id}: {each.difference}" for each in Ledger(engine).reconcile())
    if open_ones := unfinished(engine):
        verdict.lines.append(f"held: {open_ones} sessions have not ended")
    letters = [each for each in Ledger(engine).read(dead_letters.find, Filter()) if each.reason not in EXPECTED_LETTERS]
    verdict.some(f"dead letter: {each.reason} {each.request_id}: {each.detail}" for each in letters)
    return verdict


def _losses(told: dict[str, Told], found: dict[str, tuple[str, int | None]]) -> Iterable[str]:
    for of, each in told.items():
        state, actual = found.get(of, ("missing", None))
        if each.settled is not None and (state, actual) != ("settled", each.settled):
            yield f"lost: {of} was told to be settled with {each.settled}, is {state} with {actual}"
        elif each.settled is None and each.refunded and state not in ("refunded", "expired"):
            yield f"lost: {of} was told to be refunded, is {state}"
