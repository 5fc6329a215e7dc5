"""How a hold begins and grows: replay, preference, trust, pre-consume, reserve (semantics §3, §4)."""

from relay_billing.domain import token_holds
from relay_billing.domain.changes import Changes
from relay_billing.domain.entries import EntryKind
from relay_billing.domain.errors import IdempotencyConflict, InsufficientUserQuota, QueryDataError, UnknownSession
from relay_billing.domain.funding import FundingSource
from relay_billing.domain.requests import PreConsume
from relay_billing.domain.sessions import BillingSession, State
from relay_billing.domain.sources import chain_of, source_of
from relay_billing.domain.worksheet import Worksheet


def pre_consume(sheet: Worksheet, request: PreConsume, sources: tuple[FundingSource, ...]) -> Changes:
    """Decide one pre-consume of a request that was checked; the changes hold its session (semantics §3).

    A replay changes nothing and returns the session as it stands. Raises the error of the refusal; then nothing moves.
    """
    chain = chain_of(request.preference, sources)
    known = sheet.sessions.get(request.request_id)
    if known is not None:
        _check_replay(known, request, chain.preference)
        return Changes(known)
    _check_user(sheet, request.user_id, request.quota)
    for source, last in zip(chain.sources, (*(False,) * (len(chain.sources) - 1), True), strict=True):
        if not last and not source.offered(sheet, request.user_id):
            continue
        try:
            return decide(sheet, request, chain.preference, source)
        except InsufficientUserQuota as short:
            if last or short.final:
                raise
    raise AssertionError("a chain of sources is never empty")


def _check_user(sheet: Worksheet, user_id: int, needed: int) -> None:
    """Raise QueryDataError for a user who may not take money, whatever would pay (semantics §12)."""
    wallet = sheet.wallets.get(user_id)
    if wallet is not None and wallet.refusal:
        raise QueryDataError(wallet.refusal, wallet.quota, needed)


def _check_replay(known: BillingSession, request: PreConsume, preference: str) -> None:
    for field, had, has in (
        ("user_id", known.user_id, request.user_id),
        ("token_id", known.token_id, request.token_id),
        ("quota", known.quota, request.quota),
        ("model_name", known.model_name, request.model_name),
        ("preference", known.preference, preference),
    ):
        if had != has:
            raise IdempotencyConflict(request.request_id, field, had, has)


def decide(sheet: Worksheet, request: PreConsume, preference: str, source: FundingSource) -> Changes:
    """Decide a hold on one source, with its token leg (semantics §3.3 to §3.6). Raises the error of the refusal."""
    plan = source.plan(sheet, request, token_holds.trusted(sheet, request.user_id, request.token_id))
    token_holds.check(sheet, request.user_id, request.token_id, plan.hold)
    taken = source.take(sheet, request, plan)
    ttl = sheet.policy.hold_ttl if request.hold_ttl is None else request.hold_ttl
    session = BillingSession(
        request_id=request.request_id,
        user_id=request.user_id,
        token_id=request.token_id,
        quota=request.quota,
        model_name=request.model_name,
        preference=preference,
        playground=request.playground,
        state=State.PRECONSUMED,
        source=source.name,
        pre_consumed_quota=plan.hold,
        token_consumed=0 if request.token_id is None else plan.hold,
        trusted=plan.trusted,
        created_at=sheet.now_ms,
        expires_at=sheet.now_ms + ttl * 1000,
        shadow=sheet.policy.shadow,
        **taken.remembered,  # type: ignore[arg-type]
    )
    token_leg = token_holds.hold(request.request_id, request.token_id, plan.hold, EntryKind.PRE_CONSUME)
    return Changes(session, (*taken.movements, *token_leg), turn=taken.turn)


def reserve(sheet: Worksheet, request_id: str, target_quota: int, sources: tuple[FundingSource, ...]) -> Changes:
    """Raise the hold of an open session to `target_quota` (semantics §4).

    Changes nothing where the session is closed or trusted, or holds as much. Raises UnknownSession, or the error
    of the refusal; then nothing moves.
    """
    session = sheet.sessions.get(request_id)
    if session is None:
        raise UnknownSession(request_id)
    extra = target_quota - session.pre_consumed_quota
    if session.state is not State.PRECONSUMED or session.trusted or extra <= 0:
        return Changes(session)
    _check_user(sheet, session.user_id, extra)
    source = source_of(session, sources)
    source.check_raise(sheet, session, extra)
    token_holds.check(sheet, session.user_id, session.token_id, extra)
    step = session.reserves + 1
    movements = source.take_raise(sheet, session, extra, EntryKind.RESERVE, step)
    raised = session.changed(
        pre_consumed_quota=target_quota,
        token_consumed=session.token_consumed + (0 if session.token_id is None else extra),
        subscription_post_delta=session.subscription_post_delta + (0 if session.subscription_id is None else extra),
        reserves=step,
    )
    return Changes(
        raised, (*movements, *token_holds.hold(request_id, session.token_id, extra, EntryKind.RESERVE, step))
    )
