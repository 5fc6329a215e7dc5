"""Who may: bearer keys, looked up by their digests, and remembered for seconds."""

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

from api.problems import CHALLENGE, Problem
from relay_billing.aio import AsyncBillingClient
from relay_billing.domain.api_keys import ApiKey, Scope, digest_of
from relay_billing.flows import key_checks

Found = TypeVar("Found")

REMEMBERED_S = 5.0
"""Seconds for which a look-up is good: a key that was made, revoked or has expired is treated so within these."""
MAX_KEYS = 1_024
"""Keys that are remembered."""
MAX_STRANGERS = 4_096
"""Digests that are remembered to open nothing; apart from the keys, so that no flood of them drives a key out."""
MAX_LOOKING = 16
"""Look-ups under way together; one more waits. The database has other things to do than to look for strangers."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look-up found, and until when that is good, by the monotonic clock."""

    key: ApiKey | None
    until: float


class Keys:
    """The keys of one process. Open, that is without keys, as long as none was ever made and callers are local."""

    def __init__(self, client: AsyncBillingClient) -> None:
        self._client = client
        self._open_until: float | None = None
        self._keys: dict[str, Seen] = {}
        self._strangers: dict[str, Seen] = {}
        self._looking: dict[str, asyncio.Task[Any]] = {}
        self._looks = asyncio.Semaphore(MAX_LOOKING)

    async def open_unless_made(self) -> bool:
        """Open the door if no key was ever made; return whether it is open. Raises BillingUnavailable."""
        made = await self._client.read(key_checks.any_made)
        self._open_until = None if made else time.monotonic() + REMEMBERED_S
        return not made

    async def check(self, authorization: bytes | None, scope: Scope, server: tuple[str, int | None] | None) -> None:
        """Raise Problem unless the key may do `scope`; BillingUnavailable while that can't be looked up.

        `server`: the address at which the call came in; None, or a path: a UNIX socket.
        """
        now = time.monotonic()
        if self._open_until is not None and (now < self._open_until or await self._shared("", self.open_unless_made)):
            if server is None or loopback(server[0]):
                return
            raise Problem(401, "unauthorized", "without keys this door serves its own host alone", headers=CHALLENGE)
        digest = digest_of(_bearer(authorization))
        seen = self._keys.get(digest) or self._strangers.get(digest)
        if seen is None or seen.until <= now:
            seen = await self._shared(digest, partial(self._look_up, digest))
        key = seen.key
        if key is None or not key.active(time.time_ns() // 1_000_000):
            raise Problem(401, "unauthorized", "the key opens nothing: unknown, revoked or expired", headers=CHALLENGE)
        if scope not in key.scopes:
            has = ", ".join(key.scopes)
            raise Problem(403, "forbidden", f"key {key.name!r} may not do this: it has {has}, this needs {scope}")

    async def _shared(self, what: str, look: Callable[[], Coroutine[None, None, Found]]) -> Found:
        """Look once for all calls that wait for the same: the task is no caller's, so none can cancel it."""
        task: asyncio.Task[Found] | None = self._looking.get(what)
        if task is None:
            task = self._looking[what] = asyncio.get_running_loop().create_task(look())
            task.add_done_callback(lambda _: self._looking.pop(what, None))
        return await asyncio.shield(task)

    async def _look_up(self, digest: str) -> Seen:
        async with self._looks:
            row = await self._client.read(key_checks.look_up, digest)
        key = row[1] if row is not None and hmac.compare_digest(row[0], digest) else None
        seen = Seen(key, time.monotonic() + REMEMBERED_S)
        self._keys.pop(digest, None)
        self._strangers.pop(digest, None)
        known, most = (self._strangers, MAX_STRANGERS) if key is None else (self._keys, MAX_KEYS)
        if len(known) >= most:
            # The one that was looked up first.
            del known[next(iter(known))]
        known[digest] = seen
        return seen


def _bearer(authorization: bytes | None) -> bytes:
    kind, _, key = (authorization or b"").partition(b" ")
    if kind.lower() != b"bearer" or not key:
        raise Problem(401, "unauthorized", "needs the header `Authorization: Bearer KEY`", headers=CHALLENGE)
    return key.strip()


@lru_cache(maxsize=64)
def loopback(host: str) -> bool:
    """Whether only this host can reach an address: a loopback address, `localhost`, or the path of a UNIX socket."""
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
