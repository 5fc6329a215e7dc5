"""The sweep: applies intents whose message never came, and closes holds that nobody closed (semantics §8, §9)."""

from dataclasses import dataclass

from relay_billing.domain import settlements
from relay_billing.domain.outcomes import Answer
from relay_billing.flows.context import BATCH, Context
from relay_billing.store import due, loads
from relay_billing.store.commands import Steps
from relay_billing.store.writes import write


@dataclass(frozen=True, slots=True)
class Expired:
    """Counts of the holds that a sweep has closed because nobody did in time (semantics §8)."""

    looked_at: int
    """Sessions of the batch, including those that somebody closed meanwhile."""
    holds: int
    quota: int
    """Quota that they held: given back, or charged if `hold_expiry` is `charge`; shadow sessions hold nothing."""

    def __add__(self, other: "Expired") -> "Expired":
        """The sum of two batches."""
        return Expired(self.looked_at + other.looked_at, self.holds + other.holds, self.quota + other.quota)


def apply_intents(context: Context) -> Steps[list[Answer]]:
    """Apply one batch of intents whose message did not come in `intent_grace` (semantics §9)."""
    sheet = context.worksheet()
    (found,) = yield [due.waiting_ids(context.now_ms - context.policy.intent_grace * 1000, BATCH)]
    ids = sorted(row["request_id"] for row in found.rows)
    yield from loads.load_for_jobs(sheet, context.dialect.accounts, ids)
    intended = [sheet.sessions[each].intended_job for each in ids if each in sheet.sessions]
    answers = [settlements.apply(sheet, job, context.funding) for job in intended if job is not None]
    yield from write(sheet, context.dialect)
    return answers


def expire(context: Context) -> Steps[Expired]:
    """Close one batch of holds that nobody closed in time (semantics §8)."""
    sheet = context.worksheet()
    (found,) = yield [due.expired_ids(context.now_ms, BATCH)]
    ids = sorted(row["request_id"] for row in found.rows)
    yield from loads.load_for_jobs(sheet, context.dialect.accounts, ids)
    closed = [each for each in ids if settlements.expire(sheet, each, context.funding)]
    quota = sum(sheet.sessions[each].pre_consumed_quota for each in closed if not sheet.sessions[each].shadow)
    yield from write(sheet, context.dialect)
    return Expired(len(ids), len(closed), quota)
