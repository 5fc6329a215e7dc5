"""How a session ends: settle, refund, expire, and how recorded intents bind later jobs (semantics §5 to §9)."""

from dataclasses import replace

from relay_billing.domain import token_returns
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.changes import Changes, Usage
from relay_billing.domain.choices import HoldExpiry
from relay_billing.domain.dead_letters import Letter
from relay_billing.domain.entries import EntryKind, Movement
from relay_billing.domain.errors import ColumnOverflow
from relay_billing.domain.funding import FundingSource
from relay_billing.domain.jobs import Job, RefundJob, SettleJob
from relay_billing.domain.outcomes import Answer, Outcome, ParkReason
from relay_billing.domain.parked import Parked
from relay_billing.domain.sessions import BillingSession, Intent, State
from relay_billing.domain.sources import source_of
from relay_billing.domain.worksheet import Worksheet

HOLD_EXPIRED = "hold_expired"
CALLER_GONE = "client_gone"
"""Reasons of sessions that no job has closed."""


def apply(sheet: Worksheet, job: Job, sources: tuple[FundingSource, ...]) -> Answer:
    """Judge one job and post what it changes; conflicts and parks become dead letters of the same transaction."""
    session = sheet.sessions.get(job.request_id)
    if session is None:
        stake = job.actual_quota if isinstance(job, SettleJob) else 0
        return Answer(job, Outcome.UNKNOWN_SESSION, "no session has this request id", at_stake=stake)
    try:
        if isinstance(job, SettleJob):
            changes, answer = _settle(sheet, session, job, sources)
        else:
            changes, answer = _refund(sheet, session, job, sources)
        sheet.post(changes)
    except (Parked, ColumnOverflow) as problem:
        changes, answer = _park(session, job, problem)
        sheet.post(changes)
    if answer.outcome in (Outcome.CONFLICT, Outcome.PARKED):
        sheet.dead_letters.append(Letter.of_answer(answer))
    return answer


def _answer(session: BillingSession, job: Job, outcome: Outcome, detail: str = "", *, differs: bool = False) -> Answer:
    stake = job.actual_quota if isinstance(job, SettleJob) else session.pre_consumed_quota
    return Answer(
        job,
        outcome,
        detail,
        session.user_id,
        stake,
        differs,
        held_at=session.created_at,
        intended_at=session.intent_at,
    )


def _park(session: BillingSession, job: Job, problem: Parked | ColumnOverflow) -> tuple[Changes, Answer]:
    """Nothing moves. The intent is cleared: the dead letter has the job, and the next job is judged afresh."""
    reason = problem.reason if isinstance(problem, Parked) else ParkReason.COLUMN_OVERFLOW
    kept = session.changed(
        parked=True,
        parked_reason=reason.value,
        intent=None,
        intent_quota=None,
        intent_reason=None,
        intent_at=None,
    )
    detail = str(problem) if isinstance(problem, Parked) else f"{reason}: {problem}"
    answer = _answer(session, job, Outcome.PARKED, detail)
    return Changes(kept), replace(answer, park_reason=reason)


def _contradicts(session: BillingSession, job: Job) -> str | None:
    """How the job contradicts the intent recorded on the row; None: it does not (semantics §9)."""
    if session.intent is None:
        return None
    if isinstance(job, SettleJob):
        if session.intent is Intent.REFUND:
            return "the relay had asked for a refund first"
        if session.intent_quota != job.actual_quota:
            return f"the relay had asked to settle {session.intent_quota} first"
        return None
    return None if session.intent is Intent.REFUND else f"the relay had asked to settle {session.intent_quota} first"


def _settle(
    sheet: Worksheet, session: BillingSession, job: SettleJob, sources: tuple[FundingSource, ...]
) -> tuple[Changes, Answer]:
    match session.state:
        case State.SETTLED:
            differs = session.actual_quota != job.actual_quota
            detail = f"settled with {session.actual_quota}, now asked for {job.actual_quota}" if differs else ""
            return Changes(), _answer(session, job, Outcome.DUPLICATE, detail, differs=differs)
        case State.REFUNDED:
            return Changes(), _answer(session, job, Outcome.CONFLICT, "the session was refunded")
        case State.FUNDING_SETTLED:
            return _resume(sheet, session, job)
    contradiction = _contradicts(session, job)
    if contradiction:
        return Changes(), _answer(session, job, Outcome.CONFLICT, contradiction)
    limit = sheet.policy.max_settle_quota
    if limit and job.actual_quota > limit:
        raise Parked(ParkReason.IMPLAUSIBLE_AMOUNT, f"{job.actual_quota} is above max_settle_quota {limit}")
    late = session.state is State.EXPIRED
    delta = job.actual_quota - (0 if late else session.pre_consumed_quota)
    funding = source_of(session, sources).settle(sheet, session, delta)
    if session.subscription_id is not None:
        session = session.changed(subscription_post_delta=session.subscription_post_delta + delta)
    token_delta = job.actual_quota - (0 if late else session.token_consumed)
    changes = _settled(sheet, session, job.actual_quota, token_delta, job.reason, funding)
    return changes, _done(changes, job, Outcome.LATE if late else Outcome.APPLIED)


def _resume(sheet: Worksheet, session: BillingSession, job: SettleJob) -> tuple[Changes, Answer]:
    """The funding leg is committed already: only the token leg is left (semantics §2)."""
    actual = job.actual_quota if session.actual_quota is None else session.actual_quota
    if actual != job.actual_quota:
        return Changes(), _answer(session, job, Outcome.CONFLICT, f"its funding was settled with {actual}")
    changes = _settled(sheet, session, actual, actual - session.token_consumed, job.reason, ())
    return changes, _done(changes, job, Outcome.APPLIED)


def _done(changes: Changes, job: SettleJob, outcome: Outcome) -> Answer:
    """The answer to a settle that was applied; it says where the token was gone."""
    settled = changes.session
    assert settled is not None
    answer = _answer(settled, job, outcome, settled.token_error or "")
    moved = 0 if settled.shadow else settled.actual_quota or 0
    return replace(answer, token_error=settled.token_error, moved=moved)


def _settled(
    sheet: Worksheet,
    session: BillingSession,
    actual: int,
    token_delta: int,
    reason: str | None,
    funding: tuple[Movement, ...],
) -> Changes:
    """The end of every settle: token leg, usage, state."""
    token_error = token_returns.missing(sheet, session) if token_delta else None
    token_leg: tuple[Movement, ...] = ()
    if session.token_id is not None and token_delta and token_error is None:
        token_leg = (Movement(session.request_id, AccountType.TOKEN, session.token_id, EntryKind.SETTLE, -token_delta),)
    counted = sheet.policy.counts_usage and session.user_id in sheet.wallets
    return Changes(
        session.changed(
            state=State.SETTLED,
            actual_quota=actual,
            reason=reason,
            token_error=token_error,
            parked=False,
            parked_reason=None,
            closed_at=sheet.now_ms,
        ),
        (*funding, *token_leg),
        Usage(session.user_id, actual) if counted else None,
    )


def _closed(sheet: Worksheet, session: BillingSession, state: State, reason: str | None) -> BillingSession:
    return session.changed(state=state, reason=reason, parked=False, parked_reason=None, closed_at=sheet.now_ms)


def _refund(
    sheet: Worksheet, session: BillingSession, job: RefundJob, sources: tuple[FundingSource, ...]
) -> tuple[Changes, Answer]:
    if session.state in (State.SETTLED, State.REFUNDED, State.FUNDING_SETTLED):
        return Changes(), _answer(session, job, Outcome.DUPLICATE, f"the session is {session.state} already")
    contradiction = _contradicts(session, job)
    if contradiction:
        return Changes(), _answer(session, job, Outcome.CONFLICT, contradiction)
    refunded = _closed(sheet, session, State.REFUNDED, job.reason)
    if session.state is State.EXPIRED:
        return Changes(refunded), _answer(session, job, Outcome.APPLIED)
    moved = 0 if session.shadow else session.pre_consumed_quota
    answer = replace(_answer(session, job, Outcome.APPLIED), moved=moved)
    return Changes(refunded, _hold_back(sheet, session, sources, EntryKind.REFUND)), answer


def _hold_back(
    sheet: Worksheet, session: BillingSession, sources: tuple[FundingSource, ...], kind: EntryKind
) -> tuple[Movement, ...]:
    funding = source_of(session, sources).give_back(sheet, session, kind)
    return (*funding, *token_returns.give_back(sheet, session, kind))


def expire(sheet: Worksheet, request_id: str, sources: tuple[FundingSource, ...], *, abandoned: bool = False) -> bool:
    """Close a hold that nobody closed, as `hold_expiry` says (semantics §8).

    `abandoned`: its caller hung up before he was answered, so it goes back now. That is no refund, for he may have
    asked again meanwhile and use the session: then his settle is late, and charged all the same.
    False: it was closed meanwhile, has an intent, or is parked now.
    """
    session = sheet.sessions.get(request_id)
    if session is None or session.state is not State.PRECONSUMED or session.parked or session.intent is not None:
        return False
    if session.expires_at >= sheet.now_ms and not abandoned:
        return False
    reason = CALLER_GONE if abandoned else HOLD_EXPIRED
    try:
        if sheet.policy.hold_expiry is HoldExpiry.CHARGE and not abandoned:
            sheet.post(_settled(sheet, session, session.pre_consumed_quota, 0, HOLD_EXPIRED, ()))
            return True
        back = _hold_back(sheet, session, sources, EntryKind.EXPIRE)
        sheet.post(Changes(_closed(sheet, session, State.EXPIRED, reason), back))
    except (Parked, ColumnOverflow) as problem:
        changes, answer = _park(session, RefundJob(request_id, reason), problem)
        sheet.post(changes)
        sheet.dead_letters.append(Letter.of_answer(answer))
        return False
    return True


def release(sheet: Worksheet, session: BillingSession, reason: str, sources: tuple[FundingSource, ...]) -> bool:
    """Give a parked session's hold back, because an operator wrote its dead letter off.

    False where the session is not parked and open, or its account is gone: then there is nothing to give it back to.
    """
    if not session.parked or session.state is not State.PRECONSUMED:
        return False
    try:
        back = _hold_back(sheet, session, sources, EntryKind.REFUND)
        sheet.post(Changes(_closed(sheet, session, State.REFUNDED, reason), back))
    except (Parked, ColumnOverflow):
        return False
    return True
