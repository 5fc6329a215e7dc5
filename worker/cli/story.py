"""Why a user was charged, in one sentence, and a whole story as JSON. Pure: rows in, words out."""

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from relay_billing.domain.choices import HoldExpiry
from relay_billing.domain.entries import SESSION_KINDS, EntryKind
from relay_billing.domain.sessions import BillingSession, State
from relay_billing.domain.settlements import CALLER_GONE, HOLD_EXPIRED
from relay_billing.flows.history import Story
from worker.cli.phrases import because, intended
from worker.cli.timeline import events
from worker.words import amount, shown_time

FUNDING = ("wallet", "subscription")


def paid(story: Story) -> dict[str, int]:
    """What each funding account has paid, in quota, by name: the sums of the ledger."""
    sums: defaultdict[str, int] = defaultdict(int)
    for entry in story.entries:
        if entry.account_type in FUNDING and entry.kind in SESSION_KINDS:
            sums[f"{entry.account_type} {entry.account_id}"] -= entry.amount
    return {name: quota for name, quota in sums.items() if quota}


def sentence(story: Story, hold_expiry: HoldExpiry) -> str:
    """Why the user was charged, or not, in plain words."""
    session = story.session
    if session is None:
        return _without_session(story)
    said = _of_session(story, session, hold_expiry)
    return f"Judged in shadow, so nothing has moved; else: {said}" if session.shadow else said


def _of_session(story: Story, session: BillingSession, hold_expiry: HoldExpiry) -> str:
    match session.state:
        case State.SETTLED | State.FUNDING_SETTLED:
            return _charged(story, session)
        case State.REFUNDED:
            return (
                f"User {session.user_id} was charged nothing: the request was refunded"
                f"{because(session.reason)}, and what had been held went back."
            )
        case State.EXPIRED:
            held = amount(session.pre_consumed_quota)
            why = f"nobody closed the hold of {held} until {shown_time(session.expires_at)}"
            if session.reason == CALLER_GONE:
                why = f"whoever asked for the hold of {held} hung up before he was answered"
            return (
                f"User {session.user_id} was charged nothing: {why}, so it went back; "
                "a settle that still comes is charged whole."
            )
        case State.PRECONSUMED:
            return _open(story, session, hold_expiry)


def _without_session(story: Story) -> str:
    open_ones = [str(letter.id) for letter in story.letters if letter.resolution is None]
    waits = f"; dead letter {', '.join(open_ones)} waits for an operator" if open_ones else ""
    return f"There is no session {story.request_id!r}, so this request charged nobody{waits}."


def _charged(story: Story, session: BillingSession) -> str:
    actual, held = session.actual_quota or 0, session.pre_consumed_quota
    payers = paid(story)
    said = f"User {session.user_id} was charged {amount(actual)}"
    if len(payers) == 1:
        said += f" from {next(iter(payers))}"
    elif payers:
        said += f" ({', '.join(f'{amount(quota)} from {name}' for name, quota in payers.items())})"
    if session.reason == HOLD_EXPIRED:
        said += (
            f": nobody said what the request used until {shown_time(session.expires_at)}, and hold_expiry is `charge`"
        )
    else:
        said += " because that is what the request was settled with" + because(session.reason)
        if any(entry.kind == EntryKind.EXPIRE for entry in story.entries):
            said += "; the settle came after the hold had ended and gone back, so all of it was charged then"
        elif session.trusted:
            said += "; the user was trusted, so nothing had been held"
        elif actual < held:
            said += f"; {amount(held)} had been held, {amount(held - actual)} went back"
        elif actual > held:
            said += f"; {amount(held)} had been held, {amount(actual - held)} more was taken"
        else:
            said += ", exactly what had been held"
    if session.state is State.FUNDING_SETTLED:
        said += "; its token is still to be charged"
    if session.token_error:
        said += f"; its token could not be charged: {session.token_error}"
    return said + "."


def _open(story: Story, session: BillingSession, hold_expiry: HoldExpiry) -> str:
    held = amount(session.pre_consumed_quota)
    said = f"User {session.user_id} has not been charged yet: {held} is held"
    if session.parked:
        letters = ", ".join(str(letter.id) for letter in story.letters if letter.resolution is None)
        where = f", see dead letter {letters}" if letters else ""
        return f"{said}, and the session is parked ({session.parked_reason}) until an operator decides{where}."
    if session.intent is not None:
        return f"{said}; {intended(session)} at {shown_time(session.intent_at)}, and a worker or the sweep will do it."
    end = "goes back" if hold_expiry is HoldExpiry.RELEASE else "is charged"
    return f"{said} until {shown_time(session.expires_at)}, when it {end} unless the relay settles or refunds before."


def story_values(story: Story, why: str) -> dict[str, Any]:
    """A story as JSON has it."""
    return {
        "request_id": story.request_id,
        "why": why,
        "paid": {} if story.session is not None and story.session.shadow else paid(story),
        "session": None if story.session is None else asdict(story.session),
        "timeline": [asdict(event) for event in events(story)],
        "ledger": [asdict(entry) for entry in story.entries],
        "dead_letters": [asdict(letter) for letter in story.letters],
    }
