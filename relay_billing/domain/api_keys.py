"""The keys of the HTTP door's callers: what one is, what it may do, and how long. Only digests are kept."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

KEY_PREFIX = "rb_"
"""With which every key begins, so that people and scanners of secrets see what it is; 43 characters follow."""


class Scope(StrEnum):
    """What a key may do."""

    HOLD = "hold"
    """Take holds and raise them, dry runs included."""
    END = "end"
    """Settle and refund."""
    READ = "read"
    """Look at sessions, balances and metrics."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without the key itself. `*_at` are Unix milliseconds."""

    id: int
    name: str
    scopes: tuple[Scope, ...]
    created_at: int
    expires_at: int | None
    """None: it never expires."""
    revoked_at: int | None
    """None: it was not revoked."""

    def active(self, now_ms: int) -> bool:
        """Whether it opens the door at `now_ms`."""
        return self.revoked_at is None and (self.expires_at is None or now_ms < self.expires_at)


def digest_of(key: bytes) -> str:
    """SHA-256 of a key, as 64 hexadecimal digits. A key has 256 random bits, so no salt and no slow hash is needed."""
    return hashlib.sha256(key).hexdigest()
