"""What may be decided of a hold before the rows are read: the guards that the fast path tests (semantics §3)."""

from dataclasses import dataclass, replace
from functools import lru_cache

from relay_billing.domain.accounts import Subscription, Token, Wallet
from relay_billing.domain.funding import FundingSource
from relay_billing.domain.holds import decide
from relay_billing.domain.policy import Policy
from relay_billing.domain.requests import Manner, PreConsume
from relay_billing.domain.sessions import BillingSession
from relay_billing.domain.sources import chain_of
from relay_billing.domain.subscription_funding import SubscriptionFunding
from relay_billing.domain.wallet_funding import WalletFunding
from relay_billing.domain.worksheet import Worksheet

MANNERS = 64
"""Manners whose decision is kept; relays use a handful."""
_UNIT = PreConsume("", 0, 0, 1)
"""A request that stands for all of its manner."""


@dataclass(frozen=True, slots=True)
class Assumed:
    """A hold as decided for accounts that meet all guards, in each shape it may have; the rows choose the shape.

    What only the rows know is missing in the sessions: `taken` adds it. None: the hold can't have that shape.
    """

    trust_quota: int
    """A wallet and a token that both have more make it trusted; 0: nobody is."""
    wallet_rest: int
    """Quota that the wallet must have left after the hold; with less, an event may be due."""
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

    def asked_by(self, request: PreConsume, now_ms: int) -> "Assumed":
        """The same for a request of the same manner, where this is decided for one quota at time 0."""
        return replace(
            self,
            wallet=_asked_by(self.wallet, request, now_ms),
            trusted=_asked_by(self.trusted, request, now_ms),
            subscription=_asked_by(self.subscription, request, now_ms),
        )


def _asked_by(unit: BillingSession | None, request: PreConsume, now_ms: int) -> BillingSession | None:
    """The session of one quota as that of the request. Every amount of a plain hold is the request's, or 0."""
    if unit is None:
        return None
    return unit.changed(
        request_id=request.request_id,
        user_id=request.user_id,
        token_id=request.token_id,
        quota=request.quota,
        model_name=request.model_name,
        pre_consumed_quota=unit.pre_consumed_quota * request.quota,
        token_consumed=unit.token_consumed * request.quota,
        subscription_pre_consumed=unit.subscription_pre_consumed * request.quota,
        created_at=now_ms,
        expires_at=now_ms + unit.expires_at,
    )


def _limit(policy: Policy, request: PreConsume) -> int:
    """What wallet and token must both have more of for a trust bypass; 0: there is none (semantics §3.4)."""
    return 0 if request.force_pre_consume else policy.trust_quota


def only_rows_tell(policy: Policy, request: PreConsume) -> bool:
    """Whether nothing can be assumed of an amount like this: none, or above the trust limit; or without a token."""
    return request.token_id is None or request.quota == 0 or 0 < _limit(policy, request) < request.quota


def assume(policy: Policy, now_ms: int, request: PreConsume, sources: tuple[FundingSource, ...]) -> Assumed | None:
    """Decide a hold for accounts that have just enough; None: only the rows can tell (semantics §3).

    The same decision is made for all accounts that meet the same guards: they differ in nothing that it looks at.
    """
    if only_rows_tell(policy, request):
        return None
    unit = _assumed_of_unit(policy, request.manner, sources)
    return None if unit is None else unit.asked_by(request, now_ms)


@lru_cache(maxsize=MANNERS)
def _assumed_of_unit(policy: Policy, manner: Manner, sources: tuple[FundingSource, ...]) -> Assumed | None:
    """As `assume`, for a request of one quota at time 0."""
    request = replace(_UNIT, **manner._asdict())
    chain = chain_of(request.preference, sources)
    first, last = chain.sources[0], chain.sources[-1]
    asks_subscription = type(first) is SubscriptionFunding
    asks_wallet = type(first) is WalletFunding or (asks_subscription and type(last) is WalletFunding)
    if not (asks_wallet or asks_subscription):
        return None
    limit = _limit(policy, request)

    def session_on(source: FundingSource, enough: int) -> BillingSession:
        wallet = Wallet(request.user_id, enough)
        token = Token(request.token_id or 0, request.user_id, enough, False)
        rows = Worksheet(policy, 0, wallets={wallet.id: wallet}, tokens={token.id: token})
        rows.subscriptions[1] = Subscription(1, request.user_id, 0, enough, 0, "active", 0, rows.now + 1, 0, 0)
        session = decide(rows, request, chain.preference, source).session
        assert session is not None
        return session

    of_wallet = last if asks_subscription else first
    # With a limit on trusted sessions in flight, these have to be counted first.
    counted = bool(limit) and bool(policy.trust_max_inflight)
    announces = policy.announce
    return Assumed(
        limit,
        policy.wallet_low_quota + 1 if announces else 0,
        policy.subscription_low_percent if announces else -1,
        session_on(of_wallet, request.quota) if asks_wallet else None,
        session_on(of_wallet, limit + 1) if asks_wallet and limit and not counted else None,
        session_on(first, request.quota) if asks_subscription else None,
    )
