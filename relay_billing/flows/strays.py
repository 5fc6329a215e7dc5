"""Jobs whose session does not exist yet: retried by a delayed message, or by the sweep if it is lost (semantics §5)."""

import json
from collections.abc import Iterable

from sqlalchemy import delete, select

from relay_billing.domain import settlements
from relay_billing.domain.dead_letters import Letter, fingerprint
from relay_billing.domain.jobs import Job, task_of
from relay_billing.domain.messages import parse
from relay_billing.domain.outcomes import Answer, Outcome
from relay_billing.flows.context import BATCH, Context
from relay_billing.flows.dead_letters import keep as keep_letters
from relay_billing.schema import billing_strays
from relay_billing.store.commands import Command, Steps
from relay_billing.store.loads import load_for_jobs
from relay_billing.store.writes import write

LONGEST_PAUSE_S = 8
"""Seconds: the longest delay of a message between two tries of its jobs."""

_C = billing_strays.c


def _key(job: Job) -> str:
    return fingerprint(task_of(job), json.dumps(job.wire(), sort_keys=True))


def keep(context: Context, jobs: Iterable[Job]) -> Steps[None]:
    """Keep jobs until a delayed message has retried them: the broker may lose the message."""
    rows = {_key(job): {"task": task_of(job), "job": json.dumps(job.wire()), "at": context.now_ms} for job in jobs}
    kept = [{"fingerprint": key, **row} for key, row in sorted(rows.items())]
    yield [context.dialect.upsert(_C.fingerprint, lambda new: {"at": new["at"]}, kept)]


def forget(context: Context, jobs: Iterable[Job]) -> Steps[None]:
    """Remove jobs that were applied or became dead letters."""
    yield [Command(delete(billing_strays).where(_C.fingerprint.in_(sorted({_key(job) for job in jobs}))))]


def sweep(context: Context) -> Steps[list[Answer]]:
    """Judge one batch of jobs whose message was lost. A job that still has no session becomes a dead letter."""
    patience_s = context.policy.intent_grace + LONGEST_PAUSE_S
    lost = select(_C.fingerprint, _C.task, _C.job).where(_C.at < context.now_ms - patience_s * 1000)
    (found,) = yield [Command(lost.order_by(_C.at).limit(BATCH))]
    if not found.rows:
        return []
    jobs = [parse(row["task"], json.loads(row["job"])) for row in found.rows]
    sheet = context.worksheet()
    yield from load_for_jobs(sheet, context.dialect.accounts, {job.request_id for job in jobs})
    answers = [settlements.apply(sheet, job, context.funding) for job in jobs]
    yield from write(sheet, context.dialect, more=True)
    unknown = [each for each in answers if each.outcome is Outcome.UNKNOWN_SESSION]
    yield from keep_letters(context, [Letter.of_unknown(each) for each in unknown])
    yield [Command(delete(billing_strays).where(_C.fingerprint.in_([row["fingerprint"] for row in found.rows])))]
    return answers
