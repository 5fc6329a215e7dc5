"""The token leg of a settle or refund: the key's hold goes back, unless the key is gone (semantics §5, §6)."""

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.entries import EntryKind, Movement
from relay_billing.domain.sessions import BillingSession
from relay_billing.domain.worksheet import Worksheet


def missing(sheet: Worksheet, session: BillingSession) -> str | None:
    """Why the session's token can't be reached any more; None: it can, or there is none (semantics §5)."""
    if session.token_id is None:
        return None
    token = sheet.tokens.get(session.token_id)
    if token is None:
        return f"token {session.token_id} is gone"
    if token.user_id != session.user_id:
        return f"token {session.token_id} does not belong to user {session.user_id}"
    return None


def give_back(sheet: Worksheet, session: BillingSession, kind: EntryKind) -> tuple[Movement, ...]:
    """Return the token's hold; a deleted token is skipped (semantics §6)."""
    if session.token_id is None or session.token_consumed == 0 or missing(sheet, session):
        return ()
    return (Movement(session.request_id, AccountType.TOKEN, session.token_id, kind, session.token_consumed),)
