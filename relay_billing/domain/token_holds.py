"""The token leg of a hold: an API key's own limit is checked and held beside the funding (semantics §3.4, §3.5)."""

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.entries import EntryKind, Movement
from relay_billing.domain.errors import PreConsumeTokenQuotaFailed
from relay_billing.domain.worksheet import Worksheet


def check(sheet: Worksheet, user_id: int, token_id: int | None, hold: int) -> None:
    """Raise PreConsumeTokenQuotaFailed unless the token can carry `hold` quota (semantics §3.5).

    A hold of 0 asks no more of it than that it may be used, if it is the user's (semantics §12).
    """
    if token_id is None:
        return
    token = sheet.tokens.get(token_id)
    if token is not None and token.user_id == user_id and (refusal := token.refusal(sheet.now)):
        raise PreConsumeTokenQuotaFailed(token_id, token.remain_quota, hold, refusal)
    if hold == 0:
        return
    if token is None:
        raise PreConsumeTokenQuotaFailed(token_id, 0, hold, "it does not exist")
    if token.user_id != user_id:
        raise PreConsumeTokenQuotaFailed(token_id, 0, hold, f"it does not belong to user {user_id}")
    if not token.unlimited_quota and token.remain_quota < hold:
        raise PreConsumeTokenQuotaFailed(token_id, token.remain_quota, hold, "it is short of quota")


def trusted(sheet: Worksheet, user_id: int, token_id: int | None) -> bool:
    """Whether the token is rich enough for a trust bypass (semantics §3.4)."""
    token = None if token_id is None else sheet.tokens.get(token_id)
    if token is None or token.user_id != user_id or token.refusal(sheet.now):
        return False
    return token.unlimited_quota or token.remain_quota > sheet.policy.trust_quota


def hold(request_id: str, token_id: int | None, quota: int, kind: EntryKind, step: int = 0) -> tuple[Movement, ...]:
    """Take `quota` from the token; nothing in the playground."""
    if token_id is None or quota == 0:
        return ()
    return (Movement(request_id, AccountType.TOKEN, token_id, kind, -quota, step),)
