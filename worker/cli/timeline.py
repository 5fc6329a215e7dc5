"""One request's timeline. Pure: rows in, words out."""

from dataclasses import dataclass

from relay_billing.domain.entries import EntryKind
from relay_billing.domain.entry_names import forfeit_name
from relay_billing.domain.sessions import BillingSession, State
from relay_billing.flows.history import Entry, Story
from worker.cli.phrases import because, intended
from worker.words import amount

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


def _remark(at: int | None, what: str, detail: str) -> Event:
    return Event(at, what, "", None, None, detail)


def _moved(story: Story, entry: Entry) -> Event:
    account = f"{entry.account_type} {entry.account_id}"
    what = entry.kind if entry.kind != "reserve" else f"reserve {entry.step}"
    detail = entry.note or ""
    if entry.kind == EntryKind.ADJUST and entry.request_id == forfeit_name(story.request_id):
        detail = "forfeited: the subscription was reset since the hold"
    return Event(entry.created_at, what, account, entry.amount, entry.balance_after, detail)


def events(story: Story) -> list[Event]:
    """Everything that happened, in order of time; what is still to come is last."""
    found = [_moved(story, entry) for entry in story.entries]
    for letter in story.letters:
        again = f", met {letter.deliveries} times" if letter.deliveries > 1 else ""
        detail = letter.detail.removeprefix(f"{letter.reason}: ")
        words = f"dead letter {letter.id}, {letter.reason}: {detail}{again}"
        found.append(_remark(letter.created_at, "dead letter", words))
        if letter.resolved_at is not None:
            done = f"dead letter {letter.id}: {letter.note or ''}".rstrip(": ")
            found.append(_remark(letter.resolved_at, letter.resolution or "resolved", done))
    session = story.session
    if session is None:
        return sorted(found, key=lambda each: each.at or 0)
    found.insert(0, _remark(session.created_at, "session opened", _opening(session)))
    if session.intent is not None:
        found.append(_remark(session.intent_at, "intent", intended(session)))
    if session.closed_at is not None:
        words = "" if session.actual_quota is None else f"with {amount(session.actual_quota)}"
        found.append(_remark(session.closed_at, session.state.value, f"{words}{because(session.reason)}".lstrip(", ")))
    if session.parked:
        found.append(_remark(None, "parked", f"{session.parked_reason or ''}, waits for an operator"))
    elif session.state is State.PRECONSUMED and session.intent is None:
        found.append(_remark(session.expires_at, "hold ends", "if nobody closes the session before"))
    return sorted(found, key=lambda each: each.at if each.at is not None else 2**63)


def _opening(session: BillingSession) -> str:
    key = "playground" if session.token_id is None else f"token {session.token_id}"
    model = f", model {session.model_name}" if session.model_name else ""
    what = "trusted, nothing held" if session.trusted else f"asked for {amount(session.quota)}"
    return f"user {session.user_id}, {key}{model}: {what} ({session.preference})"
