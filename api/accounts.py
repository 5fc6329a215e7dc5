"""What users and tokens have."""

from api.answers import Answer, answer
from api.call import Call
from api.problems import Problem
from relay_billing.aio import AsyncBillingClient
from relay_billing.domain.checks import MAX_ID
from relay_billing.domain.errors import InvalidRequest
from relay_billing.flows import token_balance, user_balance

LONGEST = len(str(MAX_ID))


async def user(client: AsyncBillingClient, call: Call) -> Answer:
    """`GET /v1/users/{user_id}`."""
    user_id = _row_id(call, "user_id")
    return _found(await client.read(user_balance.of_user, user_id), f"no user has id {user_id}")


async def token(client: AsyncBillingClient, call: Call) -> Answer:
    """`GET /v1/tokens/{token_id}`."""
    token_id = _row_id(call, "token_id")
    return _found(await client.read(token_balance.of_token, token_id), f"no token has id {token_id}")


def _row_id(call: Call, name: str) -> int:
    given = call.path_text(name)
    if not (given.isascii() and given.isdecimal() and len(given) <= LONGEST):
        raise InvalidRequest(name, f"must be a number between 1 and {MAX_ID}, got {given!r:.40}")
    return int(given)


def _found(balance: object | None, missing: str) -> Answer:
    if balance is None:
        raise Problem(404, "not_found", missing)
    return answer(200, balance)
