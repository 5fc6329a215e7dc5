"""Settles and refunds: applied, or recorded as intents (semantics §5, §6, §9); holds that nobody waited for."""

from collections.abc import Sequence

from relay_billing.domain import checks, settlements
from relay_billing.domain.fast_settle import lowest_wallet, plain
from relay_billing.domain.jobs import Job, SettleJob
from relay_billing.domain.outcomes import Answer
from relay_billing.domain.sessions import Intent
from relay_billing.flows.context import Context
from relay_billing.store import loads
from relay_billing.store.commands import Steps
from relay_billing.store.writes import write, write_intents


def apply(context: Context, jobs: Sequence[Job]) -> Steps[list[Answer]]:
    """Judge 1 to 500 jobs in turn; return an answer for each, in order (semantics §5, §6).

    On PostgreSQL the fast path comes first; the general path judges the jobs whose guards failed.
    """
    checks.batch("jobs", len(jobs))
    answers: dict[int, Answer] = {}
    policy = context.policy
    fast = None if policy.shadow else context.dialect.fast
    sent = [] if fast is None else plain(policy, jobs, context.funding)
    if fast is not None and sent:
        settles = fast.settles(sent, context.now_ms, counted=policy.counts_usage, lowest_wallet=lowest_wallet(policy))
        (reply,) = yield [settles.command]
        answers.update(settles.answers_of(reply.rows))
    rest = {at: job for at, job in enumerate(jobs) if at not in answers}
    if rest:
        sheet = context.worksheet()
        yield from loads.load_for_jobs(sheet, context.dialect.accounts, {job.request_id for job in rest.values()})
        for at, job in rest.items():
            answers[at] = settlements.apply(sheet, job, context.funding)
        yield from write(sheet, context.dialect)
    return [answers[at] for at in range(len(jobs))]


def intend(context: Context, jobs: Sequence[Job]) -> Steps[None]:
    """Record 1 to 500 settles and refunds as intents on their sessions: from then on they are safe (semantics §9)."""
    checks.batch("jobs", len(jobs))
    # The first intent wins, within one batch too.
    first = {job.request_id: job for job in reversed(jobs)}
    rows = [
        {
            "of": job.request_id,
            "to": (Intent.SETTLE if isinstance(job, SettleJob) else Intent.REFUND).value,
            "quota_": job.actual_quota if isinstance(job, SettleJob) else None,
            "reason_": job.reason,
            "at": context.now_ms,
        }
        for _, job in sorted(first.items())
    ]
    yield write_intents(context.dialect, rows)


def abandon(context: Context, request_ids: Sequence[str]) -> Steps[None]:
    """Give back 1 to 500 holds whose callers hung up before they were answered (semantics §8)."""
    checks.batch("request_ids", len(request_ids))
    sheet = context.worksheet()
    yield from loads.load_for_jobs(sheet, context.dialect.accounts, request_ids)
    for each in request_ids:
        settlements.expire(sheet, each, context.funding, abandoned=True)
    yield from write(sheet, context.dialect)
