"""The token leg: an API key's own limit is held, charged and given back beside the funding."""

from relay_billing.domain.accounts import AccountType
from relay_billing.domain.changes import Book, Movement
from relay_billing.domain.errors import PreConsumeTokenQuotaFailed
from relay_billing.domain.sessions import BillingSession


def check(book: Book, user_id: int, token_id: int | None, hold: int) -> None:
    """Raise PreConsumeTokenQuotaFailed unless the token can carry `hold` quota (semantics §3.5)."""
    if token_id is None or hold == 0:
        return
    token = book.tokens.get(token_id)
    if token is None:
        raise PreConsumeTokenQuotaFailed(token_id, 0, hold, "it does not exist")
    if token.user_id != user_id:
        raise PreConsumeTokenQuotaFailed(token_id, 0, hold, f"it does not belong to user {user_id}")
    if not token.unlimited_quota and token.remain_quota < hold:
        raise PreConsumeTokenQuotaFailed(token_id, token.remain_quota, hold, "it is short of quota")


def trusted(book: Book, user_id: int, token_id: int | None) -> bool:
    """Whether the token is rich enough for a trust bypass (semantics §3.4)."""
    token = None if token_id is None else book.tokens.get(token_id)
    if token is None or token.user_id != user_id:
        return False
    return token.unlimited_quota or token.remain_quota > book.policy.trust_quota


def hold(request_id: str, token_id: int | None, quota: int, kind: str, step: int = 0) -> tuple[Movement, ...]:
    """Take `quota` from the token; nothing in the playground."""
    if token_id is None or quota == 0:
        return ()
    return (Movement(request_id, AccountType.TOKEN, token_id, kind, -quota, step),)


def missing(book: Book, session: BillingSession) -> str | None:
    """Why the session's token can't be reached any more; None: it can, or there is none (semantics §5)."""
    if session.token_id is None:
        return None
    token = book.tokens.get(session.token_id)
    if token is None:
        return f"token {session.token_id} is gone"
    if token.user_id != session.user_id:
        return f"token {session.token_id} does not belong to user {session.user_id}"
    return None


def give_back(book: Book, session: BillingSession, kind: str) -> tuple[Movement, ...]:
    """Return the token's hold; a deleted token is skipped (semantics §6)."""
    if session.token_id is None or session.token_consumed == 0 or missing(book, session):
        return ()
    return (Movement(session.request_id, AccountType.TOKEN, session.token_id, kind, session.token_consumed),)
