"""Jobs that could not be applied: kept with the reason and the money at stake, listed, replayed, written off."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import select

from relay_billing.domain import checks, settlements
from relay_billing.domain.changes import Changes
from relay_billing.domain.dead_letters import Letter
from relay_billing.domain.entries import Movement
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.messages import parse
from relay_billing.domain.outcomes import Outcome
from relay_billing.flows.context import BATCH, Context
from relay_billing.schema import UNRESOLVED, billing_dead_letters
from relay_billing.store import dead_letters, loads
from relay_billing.store.commands import Command, Steps
from relay_billing.store.retention import purge_rows
from relay_billing.store.writes import write

REPLAYED = "replayed"
WRITTEN_OFF = "written_off"

MAX_NOTE = 255
MAX_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class KeptLetter:
    """One row of `billing_dead_letters`. `quota` is the amount at stake; times are Unix milliseconds."""

    id: int
    task: str
    request_id: str | None
    user_id: int | None
    reason: str
    detail: str
    job: str
    """The job as JSON; for an invalid message, the whole message."""
    quota: int
    deliveries: int
    """How often the same job was refused for the same reason."""
    created_at: int
    last_at: int
    resolution: str | None
    """`replayed` or `written_off`; None: the letter is open."""
    resolved_at: int | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects dead letters; an unset field filters nothing. Amounts are quota, times Unix milliseconds."""

    ids: tuple[int, ...] = ()
    reason: str | None = None
    user_id: int | None = None
    before_ms: int | None = None
    at_least: int | None = None
    resolved: bool | None = False
    """False: open letters; True: resolved ones; None: both."""
    limit: int = 100
    """1 to 10,000; the oldest letters come first. `ids` may have up to 10,000 too."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The result of an operator's replay or write-off."""

    id: int
    resolved: bool
    """False: the letter stays open."""
    detail: str


def keep(context: Context, letters: Sequence[Letter]) -> Steps[None]:
    """Keep letters that no session's transition has written: of unknown sessions, invalid messages, failing jobs."""
    yield dead_letters.kept(context.dialect, letters, context.now_ms, announce=context.policy.announce)


def find(context: Context, chosen: Filter) -> Steps[list[KeptLetter]]:
    """The letters that match a filter, oldest first. Raises InvalidRequest if `limit` or `ids` is out of range."""
    checks.whole("limit", chosen.limit, 1, MAX_LISTED)
    checks.whole("ids", len(chosen.ids), 0, MAX_LISTED)
    c = billing_dead_letters.c
    rows = select(*(c[field.name] for field in fields(KeptLetter))).order_by(c.id)
    if chosen.ids:
        rows = rows.where(c.id.in_(chosen.ids))
    if chosen.reason is not None:
        rows = rows.where(c.reason == chosen.reason)
    if chosen.user_id is not None:
        rows = rows.where(c.user_id == chosen.user_id)
    if chosen.before_ms is not None:
        rows = rows.where(c.created_at < chosen.before_ms)
    if chosen.at_least is not None:
        rows = rows.where(c.quota >= chosen.at_least)
    if chosen.resolved is not None:
        rows = rows.where(c.resolved_at.is_not(None) if chosen.resolved else UNRESOLVED)
    (found,) = yield [Command(rows.limit(chosen.limit))]
    return [KeptLetter(**row) for row in found.rows]


def _one(context: Context, letter_id: int) -> Steps[KeptLetter | Resolution]:
    """The letter; or, if it is unknown or resolved already, a `Resolution` that says so."""
    found = yield from find(context, Filter(ids=(letter_id,), resolved=None))
    if not found:
        return Resolution(letter_id, False, "there is no such dead letter")
    if found[0].resolution is not None:
        return Resolution(letter_id, True, f"it was {found[0].resolution} before")
    return found[0]


def replay(context: Context, letter_id: int) -> Steps[Resolution]:
    """Judge the letter's job again, and resolve the letter if the job is applied or was before (semantics §5)."""
    checks.row_id("id", letter_id)
    sheet = context.worksheet()
    kept = yield from _one(context, letter_id)
    if isinstance(kept, Resolution):
        return kept
    try:
        job = parse(kept.task, json.loads(kept.job))
    except InvalidRequest as error:
        return Resolution(letter_id, False, f"it holds no valid job: {error}")
    yield from loads.load_for_jobs(sheet, context.dialect.accounts, {job.request_id})
    answer = settlements.apply(sheet, job, context.funding)
    yield from write(sheet, context.dialect, more=True)
    done = answer.outcome in (Outcome.APPLIED, Outcome.LATE, Outcome.DUPLICATE) and not answer.differs
    if done:
        yield [dead_letters.resolve(letter_id, REPLAYED, answer.outcome.value, sheet.now_ms)]
    return Resolution(letter_id, done, ": ".join(filter(None, (answer.outcome.value, answer.detail))))


def write_off(context: Context, letter_id: int, note: str) -> Steps[Resolution]:
    """Give up a letter's quota: a parked session's hold goes back, a ledger row of kind `adjust` records `note`.

    Raises InvalidRequest unless `note` has 1 to 255 characters.
    """
    checks.row_id("id", letter_id)
    checks.text("reason", note, 1, MAX_NOTE)
    sheet = context.worksheet()
    kept = yield from _one(context, letter_id)
    if isinstance(kept, Resolution):
        return kept
    detail = f"{kept.quota} quota written off"
    if kept.request_id is not None:
        yield from loads.load_for_jobs(sheet, context.dialect.accounts, {kept.request_id})
    user_id = kept.user_id
    session = sheet.sessions.get(kept.request_id or "")
    if session is not None:
        user_id = session.user_id
        if settlements.release(sheet, session, WRITTEN_OFF, context.funding) and not session.shadow:
            detail += f", the hold of {session.pre_consumed_quota} went back"
    elif user_id is not None:
        yield from loads.load_wallets(sheet, context.dialect.accounts, {user_id})
    row = Movement.write_off(letter_id, kept.deliveries, user_id, note)
    sheet.post(Changes(movements=(row,)), shadow=context.policy.shadow if session is None else session.shadow)
    yield from write(sheet, context.dialect, more=True)
    yield [dead_letters.resolve(letter_id, WRITTEN_OFF, note, sheet.now_ms)]
    return Resolution(letter_id, True, detail)


def purge(context: Context, before_ms: int) -> Steps[int]:
    """Remove a batch of letters resolved before `before_ms` (Unix milliseconds); return how many. Open ones stay."""
    c = billing_dead_letters.c
    return purge_rows(c.id, c.resolved_at < before_ms, BATCH)
