"""`sessions`: what became of requests, and closing one by hand."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from config import startup
from config.refusal import Refusal
from relay_billing import BillingSession, Ledger, Outcome, RefundJob, SettleJob
from relay_billing.domain.jobs import Job
from relay_billing.domain.sessions import Intent, State
from relay_billing.flows import history, sessions, settlements
from relay_billing.flows.history import Story
from relay_billing.flows.sessions import MAX_LISTED, SessionFilter
from worker.cli import shown, story, timeline
from worker.cli.amounts import quota_of
from worker.cli.commands import NEGATIVE
from worker.cli.ledger import open_ledger
from worker.cli.options import Json, Yes, ask
from worker.cli.times import moment_ms
from worker.words import amount, shown_time

app = typer.Typer(help="What became of requests: list, show, and close one by hand.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The relay's id of the request.")]

RELEASED = "released_by_operator"
NEWER_THAN = "7d"
"""Default of `--newer-than`, unless `--older-than` is given: closed sessions are found by their age alone."""
DONE = (Outcome.APPLIED, Outcome.LATE, Outcome.DUPLICATE)


@app.command("list")
def _list_sessions(
    user: Annotated[int | None, typer.Option(help="Only this user's.", min=1)] = None,
    token: Annotated[int | None, typer.Option(help="Only of this token.", min=1)] = None,
    state: Annotated[State | None, typer.Option(help="Only in this state.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Opened before 30m, 12h, 7d ago or a date.")] = None,
    newer_than: Annotated[
        str | None, typer.Option(help=f"Opened since; unset: {NEWER_THAN}, of preconsumed ones all.")
    ] = None,
    at_least: Annotated[str | None, typer.Option(help="Charged or holding at least this: 250000, or 0.5usd.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=MAX_LISTED)] = 100,
    as_json: Json = False,
) -> None:
    """List sessions, newest first. Exits 0, whether there are any or not.

    Example: python -m worker sessions list --state preconsumed --older-than 30m
    """
    if newer_than is None and older_than is None and state is not State.PRECONSUMED:
        newer_than = NEWER_THAN
    chosen = SessionFilter(
        user_id=user,
        token_id=token,
        state=state,
        before_ms=moment_ms("--older-than", older_than),
        after_ms=moment_ms("--newer-than", newer_than),
        at_least=None if at_least is None else quota_of("--at-least", at_least),
        limit=limit,
    )
    with open_ledger() as ledger:
        found = ledger.read(sessions.find, chosen)
    if as_json:
        print(json.dumps([asdict(each) for each in found]))
    elif found:
        Console().print(shown.sessions(found))
        real = [each for each in found if not each.shadow]
        held = sum(each.pre_consumed_quota for each in real if each.state is State.PRECONSUMED)
        charged = sum(each.actual_quota or 0 for each in real)
        print(f"{len(found)} sessions, {amount(held)} held, {amount(charged)} charged")
    else:
        print("no sessions")


@app.command("show")
def _show(request_id: Id, as_json: Json = False) -> None:
    """Show the whole story of one request, and why its user was charged. Exits 2 when nothing is known of it.

    Example: python -m worker sessions show req-20260131-7f3a
    """
    policy = startup.settings().policy
    with open_ledger() as ledger:
        found = ledger.read(history.story, request_id)
    if not found.known:
        raise Refusal(f"nothing is known of request {request_id!r}: no session, no ledger row, no dead letter")
    why = story.sentence(found, policy.hold_expiry)
    if as_json:
        print(json.dumps(story.story_values(found, why)))
        return
    _print_story(found, why)


def _print_story(found: Story, why: str) -> None:
    session = found.session
    if session is not None:
        marks = [name for name in ("parked", "shadow") if getattr(session, name)]
        state = ", ".join([session.state.value, *marks])
        print(f"request {found.request_id}: {state}, paid from {session.source}")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("when (UTC)", "what", "account"):
        table.add_column(column, no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("balance after", justify="right", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for event in timeline.events(found):
        change = "" if event.amount is None else f"{event.amount:+,}"
        after = "" if event.balance_after is None else f"{event.balance_after:,}"
        table.add_row(shown_time(event.at), event.what, event.account, change, after, event.detail)
    Console().print(table)
    print(why)


@app.command("release")
def _release(
    request_id: Id,
    reason: Annotated[str, typer.Option(help="Why: at most 64 characters.")] = RELEASED,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Give an open session's hold back, as a refund does. Exits 2 when it is closed or has an intent.

    Example: python -m worker sessions release req-20260131-7f3a --reason "ticket 4711"
    """
    with open_ledger() as ledger:
        job = RefundJob(request_id, reason)
        session = _closable(ledger, job)
        held = amount(session.pre_consumed_quota)
        ask(f"Give the hold of {held} of session {request_id} back to user {session.user_id}?", yes)
        _close(ledger, job, as_json)


@app.command("settle", context_settings=NEGATIVE)
def _settle(
    request_id: Id,
    quota: Annotated[str, typer.Argument(metavar="AMOUNT", help="Quota like 250000, or dollars like 0.5usd.")],
    reason: Annotated[str, typer.Option(help="Why: 1 to 64 characters.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Charge a session that its relay never settled. Exits 2 when it is closed or has an intent.

    Example: python -m worker sessions settle req-20260131-7f3a 0.5usd --reason "ticket 4711"
    """
    actual = quota_of("AMOUNT", quota)
    with open_ledger() as ledger:
        job = SettleJob(request_id, actual, reason)
        limit = ledger.policy.max_settle_quota
        if limit and actual > limit:
            raise Refusal(
                f"AMOUNT: {amount(actual)} is above BILLING_MAX_SETTLE_QUOTA, {amount(limit)}; to allow it, raise that"
            )
        session = _closable(ledger, job)
        ask(f"Charge user {session.user_id} {amount(actual)} for session {request_id}?", yes)
        _close(ledger, job, as_json)


def _closable(ledger: Ledger, job: Job) -> BillingSession:
    """The session, if an operator may close it with this job; else raises Refusal: a command makes no dead letters."""
    session = ledger.get(job.request_id)
    again = isinstance(job, SettleJob) and session.actual_quota == job.actual_quota
    if session.state is State.REFUNDED or (session.state in (State.SETTLED, State.FUNDING_SETTLED) and not again):
        charged = "" if session.actual_quota is None else f" with {amount(session.actual_quota)}"
        raise Refusal(f"session {job.request_id!r} is {session.state.value} already{charged}: nothing was done")
    if isinstance(job, RefundJob) and session.state is State.EXPIRED:
        raise Refusal(f"session {job.request_id!r} is expired: its hold went back already, nothing was done")
    same = again if isinstance(job, SettleJob) else session.intent is Intent.REFUND
    if session.intent is not None and not (same or _intends(session, job)):
        asked = session.intent.value if session.intent_quota is None else f"settle with {amount(session.intent_quota)}"
        raise Refusal(
            f"session {job.request_id!r}: its relay asked to {asked} at {shown_time(session.intent_at)} UTC, "
            "a worker or the sweep will do it: nothing was done"
        )
    return session


def _intends(session: BillingSession, job: Job) -> bool:
    return isinstance(job, SettleJob) and session.intent is Intent.SETTLE and session.intent_quota == job.actual_quota


def _close(ledger: Ledger, job: Job, as_json: bool) -> None:
    (answer,) = ledger.run(settlements.apply, [job])
    done = answer.outcome in DONE and not answer.differs
    if as_json:
        words = {"request_id": job.request_id, "outcome": answer.outcome.value, "detail": answer.detail, "done": done}
        print(json.dumps(words))
    elif done:
        state = ledger.get(job.request_id)
        charged = (
            "" if state.actual_quota is None else f", user {state.user_id} was charged {amount(state.actual_quota)}"
        )
        moved = ", in shadow: nothing moved" if state.shadow else charged
        print(f"{job.request_id}: {answer.outcome.value}, now {state.state.value}{moved}")
    else:
        print(f"{job.request_id}: {answer.outcome.value}, nothing moved: {answer.detail}")
    raise typer.Exit(0 if done else 1)
