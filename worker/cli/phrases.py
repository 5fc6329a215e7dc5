"""Parts of sentences about a session, for more than one page."""

from relay_billing.domain.sessions import BillingSession, Intent
from worker.words import amount


def intended(session: BillingSession) -> str:
    """What the relay asked for, as its intent says."""
    said = "refund" if session.intent is Intent.REFUND else f"settle with {amount(session.intent_quota or 0)}"
    return f"the relay asked to {said}{because(session.intent_reason)}"


def because(reason: str | None) -> str:
    """A reason, to be put behind a sentence."""
    return f", reason {reason}" if reason else ""
