"""Jobs that could not be applied: kept with the reason and the money at stake, listed, replayed, written off."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import delete, select

from relay_billing.domain import inputs, settlement
from relay_billing.domain.accounts import AccountType
from relay_billing.domain.changes import ADJUST, Book, Changes, Movement
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.funding import FundingSource
from relay_billing.domain.jobs import Answer, Job, Outcome, parse
from relay_billing.schema import billing_dead_letters
from relay_billing.store import steps
from relay_billing.store.commands import Command, Reply, Steps
from relay_billing.store.dialects import Dialect
from relay_billing.store.letters import letter, raw_letter, resolve

UNKNOWN_SESSION = "unknown_session"
INVALID_MESSAGE = "invalid_message"
POISON = "poison"
ERROR = "error"

REPLAYED = "replayed"
WRITTEN_OFF = "written_off"

MAX_NOTE = 255
MAX_LISTED = 10_000

Letter = dict[str, object]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One row of `billing_dead_letters`. `quota` is what is at stake; times are Unix milliseconds."""

    id: int
    task: str
    request_id: str | None
    user_id: int | None
    reason: str
    detail: str
    job: str
    """The job, or all of the message that was none, as JSON."""
    quota: int
    deliveries: int
    """How often the same job was refused for the same reason."""
    created_at: int
    last_at: int
    resolution: str | None
    """`replayed` or `written_off`; None: nobody has dealt with it."""
    resolved_at: int | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters; a field that is unset filters nothing. Amounts are quota, times Unix milliseconds."""

    ids: tuple[int, ...] = ()
    reason: str | None = None
    user_id: int | None = None
    before_ms: int | None = None
    at_least: int | None = None
    resolved: bool | None = False
    """False: letters that nobody has dealt with; True: the others; None: all."""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Resolution:
    """What came of an operator's replay or write-off."""

    id: int
    resolved: bool
    """False: the letter stays open."""
    detail: str


def of_unknown(answer: Answer) -> Letter:
    """The letter of a job whose session never came (semantics §5)."""
    return letter(answer.job, UNKNOWN_SESSION, answer.detail, answer.user_id, answer.at_stake)


def of_job(job: Job, reason: str, detail: str, user_id: int | None = None) -> Letter:
    """The letter of a job that could not even be judged; `user_id` None: it is not known whose it is."""
    stake = getattr(job, "actual_quota", 0)
    return letter(job, reason, detail, user_id, stake)


def of_message(task: str, body: object, reason: str, detail: str) -> Letter:
    """The letter of what is no valid job: kept whole."""
    request_id = body.get("request_id") if isinstance(body, dict) else None
    try:
        known = inputs.request_id(request_id)
    except InvalidRequest:
        known = None
    return raw_letter(task, body, reason, detail, known)


def find(chosen: Filter) -> Steps[list[DeadLetter]]:
    """The letters that a filter names, oldest first."""
    c = billing_dead_letters.c
    rows = select(*(c[field.name] for field in fields(DeadLetter))).order_by(c.id)
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
        rows = rows.where(c.resolved_at.is_not(None) if chosen.resolved else c.resolved_at.is_(None))
    (found,) = yield [Command(rows.limit(chosen.limit))]
    return [DeadLetter(**row) for row in found.rows]


def _one(letter_id: int) -> Steps[DeadLetter | Resolution]:
    """The letter, or why there is nothing to do about it."""
    found = yield from find(Filter(ids=(letter_id,), resolved=None))
    if not found:
        return Resolution(letter_id, False, "there is no such dead letter")
    if found[0].resolution is not None:
        return Resolution(letter_id, True, f"it was {found[0].resolution} before")
    return found[0]


def replay(book: Book, dialect: Dialect, sources: tuple[FundingSource, ...], letter_id: int) -> Steps[Resolution]:
    """Judge the letter's job afresh; the letter is closed where the job ends as it asks (semantics §5)."""
    kept = yield from _one(letter_id)
    if isinstance(kept, Resolution):
        return kept
    try:
        job = parse(kept.task, json.loads(kept.job))
    except InvalidRequest as error:
        return Resolution(letter_id, False, f"it holds no valid job: {error}")
    yield from steps.load_for_jobs(book, {job.request_id})
    answer = settlement.apply(book, job, sources)
    yield from steps.write(book, dialect)
    done = answer.outcome in (Outcome.APPLIED, Outcome.LATE, Outcome.DUPLICATE) and not answer.differs
    if done:
        yield [resolve(letter_id, REPLAYED, answer.outcome.value, book.now_ms)]
    return Resolution(letter_id, done, ": ".join(filter(None, (answer.outcome.value, answer.detail))))


def write_off(
    book: Book, dialect: Dialect, sources: tuple[FundingSource, ...], letter_id: int, note: str
) -> Steps[Resolution]:
    """Give up what a letter has at stake: a parked session's hold goes back, a ledger row of kind `adjust` says why."""
    inputs.text("reason", note, 1, MAX_NOTE)
    kept = yield from _one(letter_id)
    if isinstance(kept, Resolution):
        return kept
    detail = f"{kept.quota} quota written off"
    if kept.request_id is not None:
        yield from steps.load_for_jobs(book, {kept.request_id})
    user_id = kept.user_id
    session = book.sessions.get(kept.request_id or "")
    if session is not None:
        user_id = session.user_id
        if settlement.release(book, session, WRITTEN_OFF, sources):
            detail += f", the hold of {session.pre_consumed_quota} went back"
    elif user_id is not None:
        yield from steps.load_wallets(book, {user_id})
    row = Movement(f"writeoff:{letter_id}", AccountType.WALLET, user_id or 0, ADJUST, 0, note=note)
    book.post(Changes(movements=(row,)))
    yield from steps.write(book, dialect)
    yield [resolve(letter_id, WRITTEN_OFF, note, book.now_ms)]
    return Resolution(letter_id, True, detail)


def purge(before_ms: int) -> Steps[int]:
    """Remove letters that were dealt with before then; return how many. Open ones always stay."""
    c = billing_dead_letters.c
    replies: Sequence[Reply] = yield [Command(delete(billing_dead_letters).where(c.resolved_at < before_ms))]
    return replies[0].count
