"""One request's timeline, and the sentence that says why its user was charged. Pure: rows in, words out."""

from collections import defaultdict
from dataclasses import dataclass

from relay_billing.domain.changes import EXPIRE
from relay_billing.domain.policy import HoldExpiry
from relay_billing.domain.sessions import BillingSession, Intent, State
from relay_billing.domain.settlement import HOLD_EXPIRED
from relay_billing.history import Entry, Story
from worker.cli.opening import amount, shown_time

FUNDING = ("wallet", "subscription")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the timeline. `at` is Unix milliseconds; amounts are quota, None where nothing moves."""

    at: int | None
    what: str
    account: str
    amount: int | None
    balance_after: int | None
    detail: str


def _told(at: int | None, what: str, detail: str) -> Event:
    return Event(at, what, "", None, None, detail)


def _moved(entry: Entry) -> Event:
    account = f"{entry.account_type} {entry.account_id}"
    what = entry.kind if entry.kind != "reserve" else f"reserve {entry.step}"
    detail = entry.note or ""
    if entry.request_id.startswith("forfeit:"):
        detail = "forfeited: the subscription was reset since the hold"
    return Event(entry.created_at, what, account, entry.amount, entry.balance_after, detail)


def _intended(session: BillingSession) -> str:
    said = "refund" if session.intent is Intent.REFUND else f"settle with {amount(session.intent_quota or 0)}"
    return f"the relay asked to {said}{_because(session.intent_reason)}"


def _because(reason: str | None) -> str:
    return f", reason {reason}" if reason else ""


def events(story: Story) -> list[Event]:
    """Everything that happened, in order of time; what is still to come is last."""
    found = [_moved(entry) for entry in story.entries]
    for letter in story.letters:
        again = f", met {letter.deliveries} times" if letter.deliveries > 1 else ""
        detail = letter.detail.removeprefix(f"{letter.reason}: ")
        words = f"dead letter {letter.id}, {letter.reason}: {detail}{again}"
        found.append(_told(letter.created_at, "dead letter", words))
        if letter.resolved_at is not None:
            done = f"dead letter {letter.id}: {letter.note or ''}".rstrip(": ")
            found.append(_told(letter.resolved_at, letter.resolution or "resolved", done))
    session = story.session
    if session is None:
        return sorted(found, key=lambda each: each.at or 0)
    found.insert(0, _told(session.created_at, "session opened", _opening(session)))
    if session.intent is not None:
        found.append(_told(session.intent_at, "intent", _intended(session)))
    if session.closed_at is not None:
        words = "" if session.actual_quota is None else f"with {amount(session.actual_quota)}"
        found.append(_told(session.closed_at, session.state.value, f"{words}{_because(session.reason)}".lstrip(", ")))
    if session.parked:
        found.append(_told(None, "parked", f"{session.parked_reason or ''}, waits for an operator"))
    elif session.state is State.PRECONSUMED and session.intent is None:
        found.append(_told(session.expires_at, "hold ends", "if nobody closes the session before"))
    return sorted(found, key=lambda each: each.at if each.at is not None else 2**63)


def _opening(session: BillingSession) -> str:
    key = "playground" if session.token_id is None else f"token {session.token_id}"
    model = f", model {session.model_name}" if session.model_name else ""
    what = "trusted, nothing held" if session.trusted else f"asked for {amount(session.quota)}"
    return f"user {session.user_id}, {key}{model}: {what} ({session.preference})"


def paid(story: Story) -> dict[str, int]:
    """What each funding account has paid, in quota, by name: the sums of the ledger."""
    sums: defaultdict[str, int] = defaultdict(int)
    for entry in story.entries:
        if (
            entry.account_type in FUNDING
            and entry.request_id == story.request_id
            and entry.kind not in ("adjust", "top_up")
        ):
            sums[f"{entry.account_type} {entry.account_id}"] -= entry.amount
    return {name: quota for name, quota in sums.items() if quota}


def sentence(story: Story, hold_expiry: HoldExpiry) -> str:
    """Why the user was charged, or not, in plain words."""
    session = story.session
    if session is None:
        return _without_session(story)
    match session.state:
        case State.SETTLED | State.FUNDING_SETTLED:
            return _charged(story, session)
        case State.REFUNDED:
            return (
                f"User {session.user_id} was charged nothing: the request was refunded"
                f"{_because(session.reason)}, and what had been held went back."
            )
        case State.EXPIRED:
            return (
                f"User {session.user_id} was charged nothing: nobody closed the hold of "
                f"{amount(session.pre_consumed_quota)} until {shown_time(session.expires_at)}, so it went back; "
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
        said += " because that is what the request was settled with" + _because(session.reason)
        if any(entry.kind == EXPIRE for entry in story.entries):
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
        return f"{said}; {_intended(session)} at {shown_time(session.intent_at)}, and a worker or the sweep will do it."
    end = "goes back" if hold_expiry is HoldExpiry.RELEASE else "is charged"
    return f"{said} until {shown_time(session.expires_at)}, when it {end} unless the relay settles or refunds before."
