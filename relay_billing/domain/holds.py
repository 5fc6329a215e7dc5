"""How a hold begins and grows: replay, preference, trust, pre-consume, reserve (semantics §3, §4)."""

from dataclasses import dataclass

from relay_billing.domain import inputs, tokens
from relay_billing.domain.accounts import Subscription, Token, Wallet
from relay_billing.domain.changes import PRE_CONSUME, RESERVE, Book, Changes
from relay_billing.domain.errors import IdempotencyConflict, InsufficientUserQuota, UnknownSession
from relay_billing.domain.funding import FundingSource, SubscriptionFunding, WalletFunding, chain_of, source_of
from relay_billing.domain.policy import Policy
from relay_billing.domain.sessions import BillingSession, PreConsume, State


def pre_consume(book: Book, request: PreConsume, sources: tuple[FundingSource, ...]) -> Changes:
    """Decide one pre-consume, of a request that was checked; the answer is the session in the changes (semantics §3).

    A replay changes nothing and returns the session as it stands. Raises the error of the refusal; then nothing moves.
    """
    chain = chain_of(request.preference, sources)
    known = book.sessions.get(request.request_id)
    if known is not None:
        _check_replay(known, request, chain.preference)
        return Changes(known)
    for source, last in zip(chain.sources, (*(False,) * (len(chain.sources) - 1), True), strict=True):
        if not last and not source.offered(book, request.user_id):
            continue
        try:
            return _hold(book, request, chain.preference, source)
        except InsufficientUserQuota:
            if last:
                raise
    raise AssertionError("a chain of sources is never empty")


@dataclass(frozen=True, slots=True)
class Assumed:
    """A hold as it is taken where all is as usual, in each shape that it may have; the rows choose among them.

    What only the rows know is left out of the sessions: `taken` puts it in. None: that shape can't be.
    """

    trust_quota: int
    """A wallet and a token that both have more make it trusted; 0: nobody is."""
    wallet_rest: int
    """Quota that the wallet must have left after the hold; with less, somebody may have to be told."""
    subscription_rest: int
    """The same of a subscription that has a total, in percent of it: more than this must be left."""
    wallet: BillingSession | None
    """With nothing to ask before the wallet: held there and on the token."""
    trusted: BillingSession | None
    subscription: BillingSession | None
    """Held on the active subscription that ends first, its calendar standing still."""

    def taken(self, shape: str, **known: object) -> BillingSession:
        """The session of a shape, with what the rows knew."""
        session: BillingSession = getattr(self, shape)
        return session.changed(**known)


def assume(policy: Policy, now_ms: int, request: PreConsume, sources: tuple[FundingSource, ...]) -> Assumed | None:
    """Decide a hold for accounts that have just enough; None: only the rows can tell (semantics §3).

    The same decision is made for all accounts that meet the same guards: they differ in nothing that it looks at.
    """
    chain = chain_of(request.preference, sources)
    first, last = chain.sources[0], chain.sources[-1]
    trusting = policy.trust_quota > 0 and not request.force_pre_consume
    if request.token_id is None or request.quota == 0 or (trusting and request.quota > policy.trust_quota):
        return None
    asks_subscription = type(first) is SubscriptionFunding
    asks_wallet = type(first) is WalletFunding or (asks_subscription and type(last) is WalletFunding)
    if not (asks_wallet or asks_subscription):
        return None
    limit = policy.trust_quota if trusting else 0

    def decide(source: FundingSource, enough: int) -> BillingSession:
        wallet = Wallet(request.user_id, enough)
        token = Token(request.token_id or 0, request.user_id, enough, False)
        rows = Book(policy, now_ms, wallets={wallet.id: wallet}, tokens={token.id: token})
        rows.subscriptions[1] = Subscription(1, request.user_id, 0, enough, 0, "active", 0, rows.now + 1, 0, 0)
        session = _hold(rows, request, chain.preference, source).session
        assert session is not None
        return session

    of_wallet = last if asks_subscription else first
    # With a limit on trusted sessions in flight, these have to be counted first.
    counted = bool(limit) and bool(policy.trust_max_inflight)
    told = bool(policy.webhook_url)
    return Assumed(
        limit,
        policy.wallet_low_quota + 1 if told else 0,
        policy.subscription_low_percent if told else -1,
        decide(of_wallet, request.quota) if asks_wallet else None,
        decide(of_wallet, limit + 1) if asks_wallet and limit and not counted else None,
        decide(first, request.quota) if asks_subscription else None,
    )


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


def _hold(book: Book, request: PreConsume, preference: str, source: FundingSource) -> Changes:
    plan = source.plan(book, request, tokens.trusted(book, request.user_id, request.token_id))
    tokens.check(book, request.user_id, request.token_id, plan.hold)
    taken = source.take(book, request, plan)
    ttl = book.policy.hold_ttl if request.hold_ttl is None else request.hold_ttl
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
        created_at=book.now_ms,
        expires_at=book.now_ms + ttl * 1000,
        **taken.remembered,  # type: ignore[arg-type]
    )
    token_leg = tokens.hold(request.request_id, request.token_id, plan.hold, PRE_CONSUME)
    return Changes(session, (*taken.movements, *token_leg), turn=taken.turn)


def reserve(book: Book, request_id: str, target_quota: int, sources: tuple[FundingSource, ...]) -> Changes:
    """Raise the hold of an open session to `target_quota`; no-op where it is closed, trusted or as high (semantics §4).

    Raises UnknownSession, or the error of the refusal; then nothing moves.
    """
    inputs.request_id(request_id)
    inputs.quota("target_quota", target_quota)
    session = book.sessions.get(request_id)
    if session is None:
        raise UnknownSession(request_id)
    extra = target_quota - session.pre_consumed_quota
    if session.state is not State.PRECONSUMED or session.trusted or extra <= 0:
        return Changes(session)
    source = source_of(session, sources)
    source.check_raise(book, session, extra)
    tokens.check(book, session.user_id, session.token_id, extra)
    step = session.reserves + 1
    movements = source.take_raise(book, session, extra, RESERVE, step)
    raised = session.changed(
        pre_consumed_quota=target_quota,
        token_consumed=session.token_consumed + (0 if session.token_id is None else extra),
        subscription_post_delta=session.subscription_post_delta + (0 if session.subscription_id is None else extra),
        reserves=step,
    )
    return Changes(raised, (*movements, *tokens.hold(request_id, session.token_id, extra, RESERVE, step)))
