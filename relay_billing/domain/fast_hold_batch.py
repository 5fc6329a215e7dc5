"""Which requests of a batch may be held in one statement, and what each becomes there (semantics §3).

What is sent is the beginning of each user's requests: then whatever the statement leaves out is decided after it as if
it had come in its turn, for two users share neither wallet nor subscription nor token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from relay_billing.domain.fast_hold import Assumed, assume, only_rows_tell
from relay_billing.domain.funding import FundingSource
from relay_billing.domain.policy import Policy
from relay_billing.domain.requests import Manner, PreConsume
from relay_billing.domain.sessions import BillingSession


@dataclass(frozen=True, slots=True)
class Sendable:
    """A request that the statement may decide: by the wallet, held or trusted."""

    at: int
    """Its place in the batch, from 0."""
    nth: int
    """Its place among the requests of its user that are sent, from 1: it is held only where all before it are."""
    request: PreConsume
    assumed: Assumed
    """Of a request held in the same manner: the sessions in it are this one's but for what `taken` puts in."""

    def taken(self, *, trusted: bool, user_quota: int, created_at: int) -> BillingSession:
        """The session that was opened. `user_quota`: the wallet before it; `created_at`: Unix milliseconds."""
        like = self.assumed.trusted if trusted else self.assumed.wallet
        assert like is not None
        hold = 0 if trusted else self.request.quota
        return like.changed(
            request_id=self.request.request_id,
            user_id=self.request.user_id,
            token_id=self.request.token_id,
            quota=self.request.quota,
            model_name=self.request.model_name,
            pre_consumed_quota=hold,
            token_consumed=hold,
            created_at=created_at,
            expires_at=created_at + like.expires_at - like.created_at,
            user_quota=user_quota,
        )


def sendable(
    policy: Policy, now_ms: int, requests: Sequence[PreConsume], sources: tuple[FundingSource, ...]
) -> list[Sendable]:
    """What one statement may decide of a batch, in its order; of each request id the first alone (semantics §3.1)."""
    manners: dict[Manner, Assumed | None] = {}
    sent: dict[int, int] = {}
    known: set[str] = set()
    stopped: set[int] = set()
    found = []
    for at, request in enumerate(requests):
        again, user_id = request.request_id in known, request.user_id
        known.add(request.request_id)
        if user_id in stopped:
            continue
        assumed = None if again else _assumed(policy, now_ms, request, sources, manners)
        if assumed is None or assumed.wallet is None:
            stopped.add(user_id)
            continue
        sent[user_id] = nth = sent.get(user_id, 0) + 1
        found.append(Sendable(at, nth, request, assumed))
    return found


def _assumed(
    policy: Policy,
    now_ms: int,
    request: PreConsume,
    sources: tuple[FundingSource, ...],
    manners: dict[Manner, Assumed | None],
) -> Assumed | None:
    """What is assumed, decided once for all requests that differ in their ids, amount and model alone."""
    if only_rows_tell(policy, request):
        return None
    manner = request.manner
    if manner not in manners:
        manners[manner] = assume(policy, now_ms, request, sources)
    return manners[manner]
