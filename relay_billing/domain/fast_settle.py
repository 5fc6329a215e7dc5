"""Which jobs of a batch may be applied in one statement, and its answers (semantics §5, §6).

The statement applies the plain ones: of a session that is open, paid by a wallet that is there, with a token that is
there and the user's, or none, and without an intent that says otherwise. The rest is judged after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from relay_billing.domain.funding import FundingSource
from relay_billing.domain.jobs import Job, SettleJob
from relay_billing.domain.outcomes import Answer, Outcome
from relay_billing.domain.policy import Policy
from relay_billing.domain.wallet_funding import WalletFunding


@dataclass(frozen=True, slots=True)
class Plain:
    """A job that is applied where its rows are as usual."""

    at: int
    """Its place in the batch, from 0."""
    job: Job

    @property
    def actual(self) -> int | None:
        """What a settle charges; None: a refund."""
        return self.job.actual_quota if isinstance(self.job, SettleJob) else None

    def applied(self, *, user_id: int, held: int, held_at: int, intended_at: int | None) -> Answer:
        """The answer to it, applied to a session as it stood before: `held` in quota, times in Unix milliseconds."""
        moved = held if self.actual is None else self.actual
        return Answer(
            self.job,
            Outcome.APPLIED,
            user_id=user_id,
            at_stake=moved,
            moved=moved,
            held_at=held_at,
            intended_at=intended_at,
        )


def plain(policy: Policy, jobs: Sequence[Job], sources: tuple[FundingSource, ...]) -> list[Plain]:
    """What one statement may apply of a batch, in its order.

    The first job of each session alone, for what comes after is judged by what the first has done; and not one that
    parks whatever its session is (semantics §5).
    """
    if not any(type(source) is WalletFunding for source in sources):
        return []
    limit = policy.max_settle_quota
    first: dict[str, Plain] = {}
    for at, job in enumerate(jobs):
        if job.request_id not in first:
            first[job.request_id] = Plain(at, job)
    return [each for each in first.values() if not limit or each.actual is None or each.actual <= limit]


def lowest_wallet(policy: Policy) -> int | None:
    """Quota that a wallet must have before and after, so that no event is due; None: nothing is announced."""
    return policy.wallet_low_quota + 1 if policy.announce else None
