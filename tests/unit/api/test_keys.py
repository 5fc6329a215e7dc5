"""Keys are looked up once for all who wait, and what is remembered of them is bounded."""

import asyncio
from typing import Any

import pytest

from api.keys import MAX_STRANGERS, Keys, loopback
from api.problems import Problem
from relay_billing.domain.api_keys import ApiKey, Scope, digest_of
from relay_billing.domain.errors import BillingUnavailable
from relay_billing.flows import key_checks

KEY = b"rb_one"
ELSEWHERE = ("192.0.2.1", 8090)


class Client:
    """A client whose database has one key."""

    def __init__(self) -> None:
        self.looks = 0
        self.away = False
        self.made = True

    async def read(self, flow: object, *args: Any) -> object:  # noqa: ANN401
        await asyncio.sleep(0)
        if self.away:
            raise BillingUnavailable("away")
        if flow is key_checks.any_made:
            return self.made
        self.looks += 1
        key = ApiKey(1, "one", (Scope.HOLD,), 0, None, None)
        return (args[0], key) if args[0] == digest_of(KEY) else None


def check(keys: Keys, key: bytes = KEY, scope: Scope = Scope.HOLD) -> Any:  # noqa: ANN401
    return keys.check(b"Bearer " + key, scope, ELSEWHERE)


def test_a_crowd_with_one_key_is_one_look() -> None:
    async def crowd() -> int:
        client = Client()
        keys = Keys(client)  # type: ignore[arg-type]
        await asyncio.gather(*(check(keys) for _ in range(100)))
        await check(keys)
        return client.looks

    assert asyncio.run(crowd()) == 1


def test_a_caller_who_is_cancelled_takes_the_look_from_nobody() -> None:
    async def crowd() -> None:
        keys = Keys(Client())  # type: ignore[arg-type]
        first, second = asyncio.create_task(check(keys)), asyncio.create_task(check(keys))
        await asyncio.sleep(0)
        first.cancel()
        await second

    asyncio.run(crowd())


def test_a_flood_of_strangers_is_forgotten_and_drives_no_key_out() -> None:
    async def flood() -> tuple[int, int]:
        client = Client()
        keys = Keys(client)  # type: ignore[arg-type]
        await check(keys)
        for number in range(MAX_STRANGERS + 10):
            with pytest.raises(Problem):
                await check(keys, b"rb_%d" % number)
        looks = client.looks
        await check(keys)
        return client.looks - looks, len(keys._strangers)

    assert asyncio.run(flood()) == (0, MAX_STRANGERS)


def test_what_can_not_be_looked_up_is_no_key_and_no_stranger() -> None:
    async def away() -> None:
        client = Client()
        keys = Keys(client)  # type: ignore[arg-type]
        client.away = True
        with pytest.raises(BillingUnavailable):
            await check(keys)
        client.away = False
        await check(keys)

    asyncio.run(away())


def test_a_scope_that_the_key_lacks_is_forbidden() -> None:
    async def forbidden() -> int:
        with pytest.raises(Problem) as found:
            await check(Keys(Client()), scope=Scope.READ)  # type: ignore[arg-type]
        assert "hold" in str(found.value)
        return found.value.status

    assert asyncio.run(forbidden()) == 403


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("/run/billing.sock", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_only_addresses_of_this_host_are_local(host: str, local: bool) -> None:
    assert loopback(host) is local
