"""How a session ends: settle, refund, expire, and what recorded intents have to say (semantics §5 to §9)."""

from dataclasses import replace

from relay_billing.domain import tokens
from relay_billing.domain.accounts import AccountType
from relay_billing.domain.changes import EXPIRE, REFUND, SETTLE, Book, Changes, Movement, Usage
from relay_billing.domain.funding import FundingSource, Parked, source_of
from relay_billing.domain.jobs import Answer, Job, Outcome, ParkReason, RefundJob, SettleJob
from relay_billing.domain.policy import HoldExpiry
from relay_billing.domain.sessions import BillingSession, Intent, State

HOLD_EXPIRED = "hold_expired"


def apply(book: Book, job: Job, sources: tuple[FundingSource, ...]) -> Answer:
    """Judge one job and post what it changes; conflicts and parks become dead letters of the same transaction."""
    session = book.sessions.get(job.request_id)
    if session is None:
        stake = job.actual_quota if isinstance(job, SettleJob) else 0
        return Answer(job, Outcome.UNKNOWN_SESSION, "no session has this request id", at_stake=stake)
    try:
        if isinstance(job, SettleJob):
            changes, answer = _settle(book, session, job, sources)
        else:
            changes, answer = _refund(book, session, job, sources)
    except Parked as parked:
        changes, answer = _park(session, job, parked)
    book.post(changes)
    if answer.outcome in (Outcome.CONFLICT, Outcome.PARKED):
        book.dead_letters.append(answer)
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


def _park(session: BillingSession, job: Job, parked: Parked) -> tuple[Changes, Answer]:
    """Nothing moves. The intent is spent: the dead letter has the job, and the next one is judged afresh."""
    kept = session.changed(
        parked=True,
        parked_reason=parked.reason.value,
        intent=None,
        intent_quota=None,
        intent_reason=None,
        intent_at=None,
    )
    return Changes(kept), _answer(session, job, Outcome.PARKED, str(parked))


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
    book: Book, session: BillingSession, job: SettleJob, sources: tuple[FundingSource, ...]
) -> tuple[Changes, Answer]:
    match session.state:
        case State.SETTLED:
            differs = session.actual_quota != job.actual_quota
            detail = f"settled with {session.actual_quota}, now asked for {job.actual_quota}" if differs else ""
            return Changes(), _answer(session, job, Outcome.DUPLICATE, detail, differs=differs)
        case State.REFUNDED:
            return Changes(), _answer(session, job, Outcome.CONFLICT, "the session was refunded")
        case State.FUNDING_SETTLED:
            return _resume(book, session, job)
    contradiction = _contradicts(session, job)
    if contradiction:
        return Changes(), _answer(session, job, Outcome.CONFLICT, contradiction)
    limit = book.policy.max_settle_quota
    if limit and job.actual_quota > limit:
        raise Parked(ParkReason.IMPLAUSIBLE_AMOUNT, f"{job.actual_quota} is above max_settle_quota {limit}")
    late = session.state is State.EXPIRED
    delta = job.actual_quota - (0 if late else session.pre_consumed_quota)
    funding = source_of(session, sources).settle(book, session, delta)
    if session.subscription_id is not None:
        session = session.changed(subscription_post_delta=session.subscription_post_delta + delta)
    token_delta = job.actual_quota - (0 if late else session.token_consumed)
    changes = _settled(book, session, job.actual_quota, token_delta, job.reason, funding)
    return changes, _done(changes, job, Outcome.LATE if late else Outcome.APPLIED)


def _resume(book: Book, session: BillingSession, job: SettleJob) -> tuple[Changes, Answer]:
    """The funding leg is committed already: only the token leg is left (semantics §2)."""
    actual = job.actual_quota if session.actual_quota is None else session.actual_quota
    if actual != job.actual_quota:
        return Changes(), _answer(session, job, Outcome.CONFLICT, f"its funding was settled with {actual}")
    changes = _settled(book, session, actual, actual - session.token_consumed, job.reason, ())
    return changes, _done(changes, job, Outcome.APPLIED)


def _done(changes: Changes, job: SettleJob, outcome: Outcome) -> Answer:
    """The answer to a settle that was applied; a token that was gone is told."""
    settled = changes.session
    assert settled is not None
    answer = _answer(settled, job, outcome, settled.token_error or "")
    return replace(answer, token_error=settled.token_error, moved=settled.actual_quota or 0)


def _settled(
    book: Book,
    session: BillingSession,
    actual: int,
    token_delta: int,
    reason: str | None,
    funding: tuple[Movement, ...],
) -> Changes:
    """The end of every settle: token leg, usage, state."""
    token_error = tokens.missing(book, session) if token_delta else None
    token_leg: tuple[Movement, ...] = ()
    if session.token_id is not None and token_delta and token_error is None:
        token_leg = (Movement(session.request_id, AccountType.TOKEN, session.token_id, SETTLE, -token_delta),)
    counted = book.policy.record_usage and session.user_id in book.wallets
    return Changes(
        session.changed(
            state=State.SETTLED,
            actual_quota=actual,
            reason=reason,
            token_error=token_error,
            parked=False,
            parked_reason=None,
            closed_at=book.now_ms,
        ),
        (*funding, *token_leg),
        Usage(session.user_id, actual) if counted else None,
    )


def _closed(book: Book, session: BillingSession, state: State, reason: str | None) -> BillingSession:
    return session.changed(state=state, reason=reason, parked=False, parked_reason=None, closed_at=book.now_ms)


def _refund(
    book: Book, session: BillingSession, job: RefundJob, sources: tuple[FundingSource, ...]
) -> tuple[Changes, Answer]:
    if session.state in (State.SETTLED, State.REFUNDED, State.FUNDING_SETTLED):
        return Changes(), _answer(session, job, Outcome.DUPLICATE, f"the session is {session.state} already")
    contradiction = _contradicts(session, job)
    if contradiction:
        return Changes(), _answer(session, job, Outcome.CONFLICT, contradiction)
    refunded = _closed(book, session, State.REFUNDED, job.reason)
    if session.state is State.EXPIRED:
        return Changes(refunded), _answer(session, job, Outcome.APPLIED)
    answer = replace(_answer(session, job, Outcome.APPLIED), moved=session.pre_consumed_quota)
    return Changes(refunded, _hold_back(book, session, sources, REFUND)), answer


def _hold_back(
    book: Book, session: BillingSession, sources: tuple[FundingSource, ...], kind: str
) -> tuple[Movement, ...]:
    funding = source_of(session, sources).give_back(book, session, kind)
    return (*funding, *tokens.give_back(book, session, kind))


def expire(book: Book, request_id: str, sources: tuple[FundingSource, ...]) -> bool:
    """Close a hold that nobody closed, as `hold_expiry` says; False where somebody did meanwhile (semantics §8)."""
    session = book.sessions.get(request_id)
    if session is None or session.state is not State.PRECONSUMED or session.parked or session.intent is not None:
        return False
    if session.expires_at >= book.now_ms:
        return False
    if book.policy.hold_expiry is HoldExpiry.CHARGE:
        book.post(_settled(book, session, session.pre_consumed_quota, 0, HOLD_EXPIRED, ()))
        return True
    try:
        book.post(
            Changes(
                _closed(book, session, State.EXPIRED, HOLD_EXPIRED),
                _hold_back(book, session, sources, EXPIRE),
            )
        )
    except Parked as parked:
        changes, answer = _park(session, RefundJob(request_id, HOLD_EXPIRED), parked)
        book.post(changes)
        book.dead_letters.append(answer)
        return False
    return True


def release(book: Book, session: BillingSession, reason: str, sources: tuple[FundingSource, ...]) -> bool:
    """Give a parked session's hold back, by an operator's word.

    False where the session is not parked and open, or its account is gone: then there is nothing to give it back to.
    """
    if not session.parked or session.state is not State.PRECONSUMED:
        return False
    try:
        back = _hold_back(book, session, sources, REFUND)
    except Parked:
        return False
    book.post(Changes(_closed(book, session, State.REFUNDED, reason), back))
    return True


def intended_job(session: BillingSession) -> Job | None:
    """The job that carries out the intent recorded on the row; None: there is none (semantics §9)."""
    if session.intent is None:
        return None
    if session.intent is Intent.REFUND:
        return RefundJob(session.request_id, session.intent_reason)
    return SettleJob(session.request_id, session.intent_quota or 0, session.intent_reason)
